// SPDX-License-Identifier: Apache-2.0
// Real SDK clients, ready made: each answers what the servers may ask and keeps what it heard.
import { Client as Client1 } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport as Http1 } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import { SSEClientTransport as Sse1 } from '@modelcontextprotocol/sdk/client/sse.js';
import {
    CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema,
    LoggingMessageNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { Client as Client2, StreamableHTTPClientTransport as Http2 } from '@modelcontextprotocol/client';

const about = { name: 'real-test', version: '1.0.0' };

export const textOf = result => result.content.map(part => part.text).join('');

// The text that a tool answers. ...rest: what callTool() of a 1.x client takes behind the schema.
export const call = async (client, name, args = {}, ...rest) =>
    textOf(await client.callTool({ name, arguments: args }, undefined, ...rest));

function answering(client) {
    client.setRequestHandler(CreateMessageRequestSchema, () => ({
        model: 'abacus', role: 'assistant', content: { type: 'text', text: 'four' },
    }));
    client.setRequestHandler(ElicitRequestSchema, () => ({
        action: 'accept', content: { name: 'Ada' },
    }));
    client.setRequestHandler(ListRootsRequestSchema, () => ({
        roots: [{ uri: 'file:///home/ada' }],
    }));
    client.heard = [];
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params }) => {
        client.heard.push(params.data);
    });
    client.onerror = error => (client.errors ??= []).push(error);
    return client;
}

const capabilities = { sampling: {}, elicitation: {}, roots: {} };

// A client of the session generation over Streamable HTTP.
export async function connect1(url, options = {}) {
    const client = answering(new Client1(about, { capabilities }));
    await client.connect(new Http1(url, options));
    return client;
}

// A client of HTTP+SSE.
export async function connectSse(url, options = {}) {
    const client = answering(new Client1(about, { capabilities }));
    await client.connect(new Sse1(url, options));
    return client;
}

// A client of the stateless generation; mode: see the SDK's versionNegotiation.
export async function connect2(url, mode = { pin: '2026-07-28' }, options = {}) {
    const client = new Client2(about, {
        capabilities: { elicitation: {} }, versionNegotiation: { mode },
    });
    client.setRequestHandler('elicitation/create', () => ({
        action: 'accept', content: { name: 'Ada' },
    }));
    await client.connect(new Http2(url, options));
    return client;
}
