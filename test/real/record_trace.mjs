// SPDX-License-Identifier: Apache-2.0
// Records the calls of agents for test/integration/test_cache_trace.py:
//     node record_trace.mjs > ../integration/samples/agent_trace.jsonl
// The SDK's client talks to the SDK's server over Streamable HTTP; what is written are the bodies as
// the client sent them, in the order in which they went out, with what became of each. The agents
// are programs, not models: each answers questions about the sources in common/ the way coding
// agents go about it (list, search, read, look at who uses it, read again before the answer), keeps
// a note of each answer, and remembers nothing from one question to the next.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { randomUUID } from 'node:crypto';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { z } from 'zod';

const ROOT = fileURLToPath(new URL('../../common/', import.meta.url));
const text = value => ({ content: [{ type: 'text', text: value }] });

function sources() {
    return fs.readdirSync(ROOT).filter(name => /\.[ch]$/.test(name)).sort();
}

function makeServer() {
    const server = new McpServer({ name: 'sources', version: '1.0.0' });
    const readOnly = { readOnlyHint: true };
    server.registerTool('list_files', {
        inputSchema: { suffix: z.string().optional() }, annotations: readOnly,
    }, ({ suffix = '' }) => text(sources().filter(name => name.endsWith(suffix)).join('\n')));
    server.registerTool('search', {
        inputSchema: { pattern: z.string(), limit: z.number(), ignoreCase: z.boolean() },
        annotations: readOnly,
    }, ({ pattern, limit, ignoreCase }) => {
        const wanted = new RegExp(pattern, ignoreCase ? 'i' : '');
        const found = sources().flatMap(name => fs.readFileSync(path.join(ROOT, name), 'utf8')
            .split('\n').flatMap((line, at) => wanted.test(line) ? [`${name}:${at + 1}:${line}`] : []));
        return text(found.slice(0, limit).join('\n'));
    });
    server.registerTool('read_file', {
        inputSchema: { path: z.string(), from: z.number(), lines: z.number() },
        annotations: readOnly,
    }, ({ path: name, from, lines }) => text(fs.readFileSync(path.join(ROOT, path.basename(name)), 'utf8')
        .split('\n').slice(from - 1, from - 1 + lines).join('\n')));
    server.registerTool('add_note', { inputSchema: { title: z.string(), text: z.string() } },
        () => text('kept'));
    return server;
}

function listen() {
    const sessions = new Map();
    const listener = http.createServer(async (req, res) => {
        let transport = sessions.get(req.headers['mcp-session-id']);
        if (!transport) {
            transport = new StreamableHTTPServerTransport({
                sessionIdGenerator: randomUUID,
                onsessioninitialized: id => sessions.set(id, transport),
            });
            await makeServer().connect(transport);
        }
        await transport.handleRequest(req, res);
    });
    return new Promise(resolve => listener.listen(0, '127.0.0.1', () => resolve(listener)));
}

// Numbers that are the same each time the trace is recorded.
function dice(seed) {
    return bound => {
        seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
        return (seed >> 8) % bound;
    };
}

const QUESTIONS = [
    'mcp_loop_post', 'mcp_json_skip', 'mcp_rpc_parse', 'mcp_redis_run', 'mcp_park_leave',
    'mcp_request_read', 'mcp_error_send', 'mcp_value_duration', 'mcp_clock_now', 'mcp_sse_feed',
    'mcp_store_url_parse', 'mcp_breaker_t', 'mcp_timer_start', 'mcp_crew_create',
];

class Agent {
    constructor(name, url, seed) {
        Object.assign(this, { name, url, roll: dice(seed), sent: 0 });
    }

    async begin() {
        this.client = new Client({ name: this.name, version: '1.0.0' });
        await this.client.connect(new StreamableHTTPClientTransport(new URL(this.url), {
            fetch: (url, init) => this.#fetch(url, init),
        }));
        await this.client.listTools();
    }

    async #fetch(url, init) {
        const message = init.body ? JSON.parse(init.body) : {};
        const answer = await fetch(url, init);
        if (message.method !== 'tools/call')
            return answer;
        const bytes = await answer.text();
        const data = bytes.split('\n').filter(line => line.startsWith('data: '))
            .map(line => JSON.parse(line.slice(6))).find(found => found.id === message.id);
        console.log(JSON.stringify({
            agent: this.name, body: init.body, isError: Boolean(data.result?.isError || data.error),
            size: JSON.stringify(data.result ?? null).length,
        }));
        return new Response(bytes, { status: answer.status, headers: answer.headers });
    }

    async call(name, args) {
        const options = this.roll(3) ? {} : { onprogress: () => {} };
        const result = await this.client.callTool({ name, arguments: args }, undefined, options);
        return result.content.map(part => part.text).join('');
    }

    search(pattern, limit = 20) {
        return this.call('search', { pattern, limit, ignoreCase: false });
    }

    read(place) {
        const [name, line] = place.split(':');
        return this.call('read_file', { path: name, from: Math.max(1, Number(line) - 10), lines: 40 });
    }

    async answer(symbol) {
        await this.call('list_files', this.roll(2) ? {} : { suffix: '.h' });
        const found = (await this.search(symbol)).split('\n');
        const header = found.find(line => line.includes('.h:')) ?? found[0];
        await this.read(header);
        for (const place of found.slice(0, 1 + this.roll(4)))
            await this.read(place);
        if (!this.roll(4))
            await this.call('read_file', { path: `${symbol}.c`, from: 1, lines: 40 }); // a guess
        if (this.roll(2))
            await this.search(`${symbol}\\(`);
        await this.read(header); // once more, before the answer
        await this.call('add_note', { title: symbol, text: `${found.length} places` });
    }
}

const listener = await listen();
const url = `http://127.0.0.1:${listener.address().port}/mcp`;
const agents = ['ada', 'bo', 'cy'].map((name, at) => new Agent(name, url, 7 + at));
for (const agent of agents)
    await agent.begin();
await Promise.all(agents.map(async agent => {
    for (let i = 0; i < 16; i++)
        await agent.answer(QUESTIONS[Math.min(agent.roll(QUESTIONS.length), agent.roll(QUESTIONS.length))]);
    await agent.client.close();
}));
listener.closeAllConnections();
listener.close();
