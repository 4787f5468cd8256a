// SPDX-License-Identifier: Apache-2.0
// A Streamable HTTP server of the session generation (SDK 1.x). It knows only the sessions that
// it issued itself and answers 404 for any other one, as several instances of it in a row do.
// Options: name, json (JSON answers instead of event streams), resumable (keep events), retry
// (milliseconds that a client shall wait before it comes back), auth (a bearer token to ask for).
import { randomUUID } from 'node:crypto';
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { isInitializeRequest } from '@modelcontextprotocol/sdk/types.js';
import { answerJson, options, readBody, serve } from './recorder.mjs';
import { addTools } from './tools.mjs';

const settings = options();
const sessions = new Map();

// Events in the order they were stored, so that an id is a place in the array.
class Events {
    kept = [];

    async storeEvent(streamId, message) {
        this.kept.push({ streamId, message });
        return String(this.kept.length);
    }

    async getStreamIdForEventId(id) {
        return this.kept[Number(id) - 1]?.streamId;
    }

    async replayEventsAfter(lastId, { send }) {
        const { streamId } = this.kept[Number(lastId) - 1];
        const rest = [...this.kept.entries()].slice(Number(lastId));
        for (const [index, event] of rest) {
            if (event.streamId === streamId && event.message.jsonrpc)
                await send(String(index + 1), event.message);
        }
        return streamId;
    }
}

async function openSession() {
    const session = { name: settings.name, cancelled: 0, id: () => transport.sessionId };
    const server = new McpServer({ name: 'sessions', version: '1.0.0' }, {
        capabilities: { logging: {}, tools: {}, resources: { subscribe: true }, prompts: {} },
    });
    const transport = new StreamableHTTPServerTransport({
        sessionIdGenerator: () => randomUUID(),
        enableJsonResponse: settings.json ?? false,
        eventStore: settings.resumable ? new Events() : undefined,
        retryInterval: settings.retry,
        onsessioninitialized: (id) => {
            sessions.set(id, Object.assign(session, { transport, server }));
        },
        onsessionclosed: id => sessions.delete(id),
    });
    addTools(server, session);
    await server.connect(transport);
    return transport;
}

function refuse(res, status, code, message) {
    answerJson(res, status, { jsonrpc: '2.0', error: { code, message }, id: null });
}

async function handle(req, res) {
    if (new URL(req.url, 'http://localhost').pathname !== '/mcp')
        return refuse(res, 404, -32000, 'No such path');
    if (settings.auth && req.headers.authorization !== `Bearer ${settings.auth}`) {
        const where = 'resource_metadata="https://auth.example/.well-known/oauth-protected-resource"';
        return answerJson(res, 401, { error: 'invalid_token' },
            { 'WWW-Authenticate': `Bearer ${where}`, 'Retry-After': '7' });
    }
    const id = req.headers['mcp-session-id'];
    if (id !== undefined && !sessions.has(id))
        return refuse(res, 404, -32001, 'Session not found');
    if (id !== undefined)
        return sessions.get(id).transport.handleRequest(req, res);
    if (req.method !== 'POST')
        return refuse(res, 400, -32000, 'No session');
    let body;
    try {
        body = JSON.parse(await readBody(req));
    } catch {
        return refuse(res, 400, -32700, 'Parse error');
    }
    if (![body].flat().some(isInitializeRequest))
        return refuse(res, 400, -32000, 'No session');
    const transport = await openSession();
    return transport.handleRequest(req, res, body);
}

serve(handle, {
    sessions: () => [...sessions].map(([id, { cancelled }]) => ({ id, cancelled })),
    // Forgets a session as a restarted server would.
    forget: async ({ id }) => {
        const session = sessions.get(id);
        sessions.delete(id);
        await session?.server.close();
    },
    step: ({ id }) => sessions.get(id).steps.advance(),
    announce: ({ id, data }) => sessions.get(id).server.server
        .sendLoggingMessage({ level: 'info', data }),
});
