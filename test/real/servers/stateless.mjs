// SPDX-License-Identifier: Apache-2.0
// A server of the stateless generation (SDK 2.x, 2026-07-28): every request stands alone. It also
// answers clients of the session generation, without sessions. Options: name, responseMode.
import {
    McpServer, ResourceTemplate, acceptedContent, createMcpHandler, inputRequired,
} from '@modelcontextprotocol/server';
import { toNodeHandler } from '@modelcontextprotocol/node';
import { EventEmitter, once } from 'node:events';
import { z } from 'zod';
import { addFixtures } from './fixtures.mjs';
import { options, serve } from './recorder.mjs';

const settings = options();
const text = value => ({ content: [{ type: 'text', text: value }] });
const go = new EventEmitter().setMaxListeners(0);
const counts = { cancelled: 0 };
let steps = 0;

async function reach(wanted, signal) {
    while (steps < wanted)
        await once(go, 'step', { signal });
}

function progress(ctx, done, total) {
    return ctx.mcpReq.notify({
        method: 'notifications/progress',
        params: { progressToken: ctx.mcpReq._meta?.progressToken ?? 0, progress: done, total },
    });
}

function addTools(server) {
    server.registerTool('whoami', {}, () => text(settings.name));
    server.registerTool('echo', { inputSchema: z.object({ text: z.string() }) },
        ({ text: value }) => text(value));
    server.registerTool('big', { inputSchema: z.object({ bytes: z.number() }) },
        ({ bytes }) => text('x'.repeat(bytes)));
    // Goes on when the test, not the client, says so: no session ties two requests together.
    server.registerTool('steps', { inputSchema: z.object({ count: z.number() }) },
        async ({ count }, ctx) => {
            const start = steps;
            for (let i = 1; i <= count; i++) {
                await progress(ctx, i, count);
                await reach(start + i, ctx.mcpReq.signal);
            }
            return text(`${count} steps`);
        });
    server.registerTool('hang', {}, async (ctx) => {
        await progress(ctx, 1);
        try {
            await reach(Infinity, ctx.mcpReq.signal);
        } finally {
            counts.cancelled += 1;
        }
        return text('never');
    });
    server.registerTool('confirm', {}, (ctx) => {
        const answer = acceptedContent(ctx.mcpReq.inputResponses, 'name');
        if (answer !== undefined)
            return text(`confirmed by ${answer.name}`);
        const requestedSchema = z.object({ name: z.string() });
        const name = inputRequired.elicit({ message: 'Your name?', requestedSchema });
        return inputRequired({ inputRequests: { name } });
    });
}

const handler = createMcpHandler(() => {
    const server = new McpServer({ name: 'stateless', version: '2.0.0' }, {
        capabilities: { tools: { listChanged: true }, resources: { subscribe: true } },
    });
    addTools(server);
    addFixtures(server, {
        ResourceTemplate,
        notify: (ctx, notification) => ctx.mcpReq.notify(notification),
        tokenOf: ctx => ctx.mcpReq._meta?.progressToken,
    });
    server.registerResource('readme', 'test://readme', { mimeType: 'text/plain' },
        uri => ({ contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'grüße, 世界' }] }));
    return server;
}, { responseMode: settings.responseMode ?? 'auto', keepAliveMs: 0 });

serve(toNodeHandler(handler), {
    counts: () => counts,
    step: () => {
        steps += 1;
        go.emit('step');
    },
    toolsChanged: () => handler.notify.toolsChanged(),
    resourceUpdated: ({ uri }) => handler.notify.resourceUpdated(uri),
});
