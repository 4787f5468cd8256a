// SPDX-License-Identifier: Apache-2.0
// What goes over the wire: the bytes that a real server wrote are the bytes that the client gets,
// and headers go through as mod_proxy makes them.
import assert from 'node:assert/strict';
import http from 'node:http';
import { describe, test } from 'node:test';
import { compare } from './lib/both.mjs';
import { stock } from './lib/gateway.mjs';
import { soon, until } from './lib/servers.mjs';

const accept = 'application/json, text/event-stream';
const place = [{ path: '/mcp', to: 'balancer://mcp/mcp' }];

let nextMark = 1;

// One exchange over a connection of its own or of the given agent; mark finds it at the server.
// Answers { status, headers, body } and, before the end, hands the response to onResponse.
function exchange(url, { method = 'POST', headers = {}, body, agent, onResponse } = {}) {
    const mark = `m${nextMark++}`;
    const done = new Promise((resolve, reject) => {
        const req = http.request(url, {
            method, agent, headers: {
                'X-Mark': mark, Accept: accept,
                ...(body === undefined ? {} : { 'Content-Type': 'application/json' }), ...headers,
            },
        }, (res) => {
            const parts = [];
            onResponse?.(res);
            res.on('data', part => parts.push(part));
            res.on('error', error => resolve({ error, body: Buffer.concat(parts) }));
            res.on('end', () => resolve({
                mark, status: res.statusCode, headers: res.headers, body: Buffer.concat(parts),
                reused: req.reusedSocket,
            }));
        });
        req.on('error', reject);
        req.end(body === undefined ? undefined : JSON.stringify(body));
    });
    return soon(done, 'the end of the response');
}

async function atServer(target, mark) {
    return until(async () => {
        const lists = await Promise.all(target.servers.map(server => server.seen()));
        return lists.flat().find(entry => entry.headers['x-mark'] === mark);
    }, 'the request reaches a server');
}

const initialize = {
    jsonrpc: '2.0', id: 1, method: 'initialize', params: {
        protocolVersion: '2025-06-18', capabilities: {},
        clientInfo: { name: 'raw', version: '1' },
    },
};
const toolCall = (name, args = {}, id = 2) => ({
    jsonrpc: '2.0', id, method: 'tools/call',
    params: { name, arguments: args, _meta: { progressToken: id } },
});

async function openSession(target, headers = {}) {
    const opened = await exchange(target.url('/mcp'), { body: initialize, headers });
    assert.equal(opened.status, 200);
    const session = { 'Mcp-Session-Id': opened.headers['mcp-session-id'], ...headers };
    await exchange(target.url('/mcp'), {
        headers: session, body: { jsonrpc: '2.0', method: 'notifications/initialized' },
    });
    return { session, opened };
}

// What is for one connection only, or differs between two equal answers.
const perHop = ['connection', 'keep-alive', 'transfer-encoding', 'date', 'server', 'content-length',
    'mcp-session-id', 'upgrade'];
const lasting = headers => Object.fromEntries(Object.entries(headers)
    .filter(([name]) => !perHop.includes(name)));

async function sameBytes(target, answer) {
    const entry = await atServer(target, answer.mark);
    assert.deepEqual(answer.body, entry.sent);
    return { status: answer.status, headers: lasting(answer.headers), some: answer.body.length > 0 };
}

for (const [kind, settings] of [['an event stream', {}], ['JSON', { json: true }]]) {
    describe(`a session with ${kind} for an answer`, () => {
        const { both } = compare({ kind: 'sessions', settings, place });
        both('initialize and calls are the server\'s bytes and headers', async (target) => {
            const { session, opened } = await openSession(target);
            const outcome = [await sameBytes(target, opened)];
            for (const body of [toolCall('echo', { text: 'grüße \u2028 世界\r\n' }),
                toolCall('big', { bytes: 300000 }), toolCall('no_such_tool'),
                { jsonrpc: '2.0', id: 9, method: 'no/such' }]) {
                const answer = await exchange(target.url('/mcp'), { headers: session, body });
                outcome.push(await sameBytes(target, answer));
            }
            return outcome;
        });
        both('what the server refuses is refused in its own words', async (target) => {
            const outcome = [];
            for (const [method, headers] of [['GET', { Accept: 'text/html' }],
                ['GET', { Accept: '' }], ['DELETE', {}], ['PUT', {}]]) {
                const answer = await exchange(target.url('/mcp'), { method, headers });
                outcome.push(await sameBytes(target, answer));
            }
            return outcome;
        });
    });
}

describe('one stream', () => {
    const { both } = compare({ kind: 'sessions', settings: { resumable: true }, place });

    both('each event arrives by itself, as it was written', async (target) => {
        const { session } = await openSession(target);
        const arrived = [];
        const answer = await exchange(target.url('/mcp'), {
            headers: session, body: toolCall('steps', { count: 3 }),
            // The next event is only written after the one before has arrived.
            onResponse: res => res.on('data', (part) => {
                arrived.push(part.toString());
                if (/"progress":\d/.test(part))
                    exchange(target.url('/mcp'), { headers: session, body: toolCall('step', {}, 50 + arrived.length) });
            }),
        });
        await sameBytes(target, answer);
        return arrived.filter(part => part.includes('progress')).length;
    });

    both('a standing stream is the server\'s bytes until it ends', async (target) => {
        const { session } = await openSession(target);
        const ended = exchange(target.url('/mcp'), {
            method: 'GET', headers: session,
            onResponse: (res) => {
                exchange(target.url('/mcp'), {
                    headers: session, body: toolCall('announce', { text: 'grüße' }),
                });
                res.once('data', () => exchange(target.url('/mcp'),
                    { method: 'DELETE', headers: session }));
            },
        });
        return sameBytes(target, await ended);
    });

    both('the connection serves on after each stream', async (target) => {
        const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
        const { session } = await openSession(target);
        const reused = [];
        for (let i = 0; i < 10; i++) {
            const answer = await exchange(target.url('/mcp'),
                { agent, headers: session, body: toolCall('echo', { text: `n${i}` }) });
            assert.match(answer.body.toString(), new RegExp(`n${i}`));
            reused.push(answer.reused);
        }
        agent.destroy();
        return reused;
    });
});

describe('request headers', () => {
    const { through, world } = compare({
        kind: 'sessions', settings: { json: true }, place: [
            { path: '/mcp', to: 'balancer://mcp/mcp', directives: ['RequestHeader set X-Tenant blue'] },
            { path: '/preserved', to: 'balancer://mcp/mcp', directives: ['ProxyPreserveHost On'] },
            { path: '/bare', to: 'balancer://mcp/mcp', directives: ['ProxyAddHeaders Off'] },
        ],
    });
    const sent = async (path, options = {}) => {
        const answer = await exchange(through().url(path), { body: initialize, ...options });
        assert.equal(answer.status, 200);
        return (await atServer(through(), answer.mark));
    };

    test('are mod_proxy\'s: X-Forwarded-*, RequestHeader and the backend\'s Host', async () => {
        const { headers } = await sent('/mcp');
        assert.equal(headers['x-forwarded-for'], '127.0.0.1');
        assert.equal(headers['x-forwarded-host'], `127.0.0.1:${world.gateway.port}`);
        assert.ok(headers['x-forwarded-server']);
        assert.equal(headers['x-tenant'], 'blue');
        assert.ok(world.servers.some(server => headers.host === `127.0.0.1:${server.port}`));
    });

    test('keep the client\'s Host with ProxyPreserveHost', async () => {
        const { headers } = await sent('/preserved', { headers: { Host: 'mcp.example' } });
        assert.equal(headers.host, 'mcp.example');
    });

    test('add nothing with ProxyAddHeaders Off', async () => {
        const { headers } = await sent('/bare');
        assert.equal(headers['x-forwarded-for'], undefined);
    });

    test('lose what is for one connection only', async () => {
        const { headers } = await sent('/mcp', {
            headers: { Connection: 'close, X-Private', 'X-Private': '1', TE: 'trailers', 'X-Kept': '2' },
        });
        assert.equal(headers['x-private'], undefined);
        assert.equal(headers['x-kept'], '2');
    });

    test('carry one Content-Length, also for a chunked body', async () => {
        const { rawHeaders } = await sent('/mcp', { headers: { 'Transfer-Encoding': 'chunked' } });
        const names = rawHeaders.filter((_, i) => i % 2 === 0).map(name => name.toLowerCase());
        assert.equal(names.filter(name => name === 'content-length').length, 1);
        assert.ok(!names.includes('transfer-encoding'));
    });
});

describe('a server that asks for a token', () => {
    const { both } = compare({ kind: 'sessions', settings: { auth: 'secret' }, place });
    both('gets its challenge and its Retry-After through, and then the token', async (target) => {
        const refused = await exchange(target.url('/mcp'), { body: initialize });
        assert.match(refused.headers['www-authenticate'], /resource_metadata=/);
        assert.equal(refused.headers['retry-after'], '7');
        const { session } = await openSession(target, { Authorization: 'Bearer secret' });
        const answer = await exchange(target.url('/mcp'),
            { headers: session, body: toolCall('echo', { text: 'in' }) });
        return [await sameBytes(target, refused), await sameBytes(target, answer)];
    });
});

describe('where everything is compressed', { skip: stock }, () => {
    const { through } = compare({
        kind: 'sessions', settings: {}, setup: { modules: ['filter', 'deflate'] },
        place: [{ path: '/mcp', to: 'balancer://mcp/mcp', directives: ['SetOutputFilter DEFLATE'] }],
    });
    test('an event stream is not', async () => {
        const headers = { 'Accept-Encoding': 'gzip' };
        const { session } = await openSession(through(), headers);
        const answer = await exchange(through().url('/mcp'),
            { headers: session, body: toolCall('echo', { text: 'plain' }) });
        assert.equal(answer.headers['content-encoding'], undefined);
        await sameBytes(through(), answer);
    });
});
