// SPDX-License-Identifier: Apache-2.0
// The tools of the 1.x servers, registered on the McpServer of one session. Several wait until
// the test says "step": a gateway that holds an event back makes them wait for ever, so that no
// test here has to measure time.
import { EventEmitter, once } from 'node:events';
import { ResourceTemplate } from '@modelcontextprotocol/sdk/server/mcp.js';
import { SubscribeRequestSchema, UnsubscribeRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import { z } from 'zod';
import { addAskingFixtures, addFixtures } from './fixtures.mjs';

const text = value => ({ content: [{ type: 'text', text: value }] });

// Counts the calls of the tool "step" in one session and lets the others wait for them.
class Steps extends EventEmitter {
    count = 0;

    advance() {
        this.count += 1;
        this.emit('step');
    }

    async reach(wanted, signal) {
        while (this.count < wanted)
            await once(this, 'step', { signal });
    }
}

function addPlainTools(server, session) {
    server.registerTool('whoami', {}, () => text(`${session.name} ${session.id()}`));
    server.registerTool('echo', { inputSchema: { text: z.string() } },
        ({ text: value }) => text(value));
    server.registerTool('big', { inputSchema: { bytes: z.number() } },
        ({ bytes }) => text('x'.repeat(bytes)));
    server.registerTool('fail', {}, () => {
        throw new Error('this tool always fails');
    });
}

function addWaitingTools(server, session, steps) {
    server.registerTool('step', {}, () => {
        steps.advance();
        return text(String(steps.count));
    });
    server.registerTool('steps', { inputSchema: { count: z.number() } }, async ({ count }, extra) => {
        for (let i = 1; i <= count; i++) {
            await extra.sendNotification({
                method: 'notifications/progress',
                params: { progressToken: extra._meta.progressToken, progress: i, total: count },
            });
            await steps.reach(i, extra.signal);
        }
        return text(`${count} steps`);
    });
    server.registerTool('hang', {}, async (extra) => {
        await extra.sendNotification({
            method: 'notifications/progress',
            params: { progressToken: extra._meta?.progressToken ?? 0, progress: 1 },
        });
        try {
            await steps.reach(Infinity, extra.signal);
        } finally {
            session.cancelled += 1;
        }
        return text('never');
    });
}

const sampling = {
    messages: [{ role: 'user', content: { type: 'text', text: 'two and two?' } }],
    maxTokens: 10,
};

const elicitation = {
    message: 'Your name?',
    requestedSchema: {
        type: 'object', properties: { name: { type: 'string' } }, required: ['name'],
    },
};

// Requests from server to client: on the stream of the call that caused them, or (apart) on the
// standing stream of the session.
function addAskingTools(server) {
    const apart = { inputSchema: { apart: z.boolean() } };
    server.registerTool('ask_model', apart, async ({ apart: isApart }, extra) => {
        const options = isApart ? {} : { relatedRequestId: extra.requestId };
        const answer = await server.server.createMessage(sampling, options);
        return text(`${answer.model}: ${answer.content.text}`);
    });
    server.registerTool('ask_user', apart, async ({ apart: isApart }, extra) => {
        const options = isApart ? {} : { relatedRequestId: extra.requestId };
        const answer = await server.server.elicitInput(elicitation, options);
        return text(`${answer.action}: ${answer.content?.name}`);
    });
    server.registerTool('ask_roots', apart, async ({ apart: isApart }, extra) => {
        const options = isApart ? {} : { relatedRequestId: extra.requestId };
        const answer = await server.server.listRoots({}, options);
        return text(answer.roots.map(root => root.uri).join(' '));
    });
}

function announce(server, data) {
    return server.server.sendLoggingMessage({ level: 'info', data });
}

function addStreamTools(server) {
    server.registerTool('announce', { inputSchema: { text: z.string() } },
        async ({ text: value }) => {
            await announce(server, value);
            return text('announced');
        });
    // The stream of this very call is closed before the answer is there: the client has to come
    // back for it with Last-Event-ID.
    server.registerTool('drop_call', {}, async (extra) => {
        extra.closeSSEStream?.();
        return text('fetched later');
    });
    server.registerTool('drop_standing', { inputSchema: { text: z.string() } },
        async ({ text: value }, extra) => {
            extra.closeStandaloneSSEStream?.();
            await announce(server, `${value} 1`);
            await announce(server, `${value} 2`);
            return text('dropped');
        });
}

function addOtherFeatures(server) {
    server.registerResource('readme', 'test://readme', { mimeType: 'text/plain' },
        uri => ({ contents: [{ uri: uri.href, mimeType: 'text/plain', text: 'grüße, 世界' }] }));
    server.registerPrompt('greet', { argsSchema: { name: z.string() } }, ({ name }) => ({
        messages: [{ role: 'user', content: { type: 'text', text: `Hello ${name}` } }],
    }));
}

// session: { name, id(), cancelled }, of which cancelled is counted up here; steps is added.
export function addTools(server, session) {
    const steps = new Steps();
    steps.setMaxListeners(0);
    session.steps = steps;
    addPlainTools(server, session);
    addWaitingTools(server, session, steps);
    addAskingTools(server);
    addStreamTools(server);
    addOtherFeatures(server);
    addFixtures(server, {
        ResourceTemplate,
        notify: (extra, notification) => extra.sendNotification(notification),
        tokenOf: extra => extra._meta?.progressToken,
    });
    addAskingFixtures(server);
    server.server.setRequestHandler(SubscribeRequestSchema, () => ({}));
    server.server.setRequestHandler(UnsubscribeRequestSchema, () => ({}));
}
