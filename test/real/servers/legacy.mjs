// SPDX-License-Identifier: Apache-2.0
// An HTTP+SSE server (revision 2024-11-05, SDK 1.x). Options: name; endpoint, how the POST URL
// in the first event is written: "query" (/message?sessionId=ID, what the SDK does), "path"
// (/message/ID), "absolute" (http://HOST:PORT/message?sessionId=ID with this server's own
// address) or "foreign" (the same with somebody else's name); prefix, in front of both paths.
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js';
import { SSEServerTransport } from '@modelcontextprotocol/sdk/server/sse.js';
import { options, serve } from './recorder.mjs';
import { addTools } from './tools.mjs';

const settings = options();
const prefix = settings.prefix ?? '';
const sessions = new Map();

function endpointOf(id, res) {
    const query = `${prefix}/message?sessionId=${id}`;
    const forms = {
        query,
        path: `${prefix}/message/${id}`,
        absolute: `http://127.0.0.1:${res.socket.localPort}${query}`,
        foreign: `http://elsewhere.example${query}`,
    };
    return forms[settings.endpoint ?? 'query'];
}

// The SDK's transport writes only the "query" form; this is its response object with another
// first event.
function withEndpoint(res, transport) {
    if ((settings.endpoint ?? 'query') === 'query')
        return;
    const { write } = res;
    res.write = function (chunk, ...rest) {
        res.write = write;
        const event = `event: endpoint\ndata: ${endpointOf(transport.sessionId, res)}\n\n`;
        return write.call(this, event, ...rest);
    };
}

async function open(res) {
    const session = { name: settings.name, cancelled: 0, id: () => transport.sessionId };
    const transport = new SSEServerTransport(`${prefix}/message`, res);
    const server = new McpServer({ name: 'legacy', version: '1.0.0' }, {
        capabilities: { logging: {}, tools: {}, resources: { subscribe: true }, prompts: {} },
    });
    addTools(server, session);
    withEndpoint(res, transport);
    sessions.set(transport.sessionId, { transport, server, session });
    server.server.onclose = () => sessions.delete(transport.sessionId);
    await server.connect(transport);
}

function handle(req, res) {
    const url = new URL(req.url, 'http://localhost');
    if (req.method === 'GET' && url.pathname === `${prefix}/sse`)
        return open(res);
    const fromPath = url.pathname.startsWith(`${prefix}/message/`)
        ? url.pathname.slice(`${prefix}/message/`.length) : undefined;
    const found = sessions.get(url.searchParams.get('sessionId') ?? fromPath);
    if (req.method !== 'POST' || found === undefined) {
        res.writeHead(404, { 'Content-Type': 'text/plain' });
        return res.end('Session not found');
    }
    return found.transport.handlePostMessage(req, res);
}

serve(handle, {
    sessions: () => [...sessions].map(([id, { session }]) => ({ id, cancelled: session.cancelled })),
});
