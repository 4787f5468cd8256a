// SPDX-License-Identifier: Apache-2.0
// What the conformance suite expects of a server under test: tools, resources and prompts of
// agreed names. The first part goes for both generations, the second asks the client something,
// which only the session generation does by requests of its own.
import { z } from 'zod';

const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
const wav = 'UklGRiQAAABXQVZFZm10IBAAAAABAAEARKwAAIhYAQACABAAZGF0YQAAAAA=';

const text = value => ({ type: 'text', text: value });
const image = { type: 'image', data: png, mimeType: 'image/png' };
const audio = { type: 'audio', data: wav, mimeType: 'audio/wav' };
const embedded = (uri, mimeType, value) =>
    ({ type: 'resource', resource: { uri, mimeType, text: value } });
const fromUser = content => ({ role: 'user', content });

function addContent(server) {
    const contents = {
        test_simple_text: [text('This is a simple text response for testing.')],
        test_image_content: [image],
        test_audio_content: [audio],
        test_embedded_resource: [embedded('test://embedded-resource', 'text/plain',
            'This is an embedded resource content.')],
        test_multiple_content_types: [text('Multiple content types test:'), image,
            embedded('test://mixed-content-resource', 'application/json',
                '{"test":"data","value":123}')],
    };
    for (const [name, content] of Object.entries(contents))
        server.registerTool(name, { description: name }, () => ({ content }));
    server.registerTool('test_error_handling', { description: 'fails' }, () => {
        throw new Error('This tool intentionally returns an error for testing');
    });
}

function addResources(server) {
    const plain = { mimeType: 'text/plain' };
    const one = (uri, content) => ({ contents: [{ uri: uri.href, ...content }] });
    server.registerResource('static-text', 'test://static-text', plain, uri => one(uri,
        { ...plain, text: 'This is the content of the static text resource.' }));
    server.registerResource('static-binary', 'test://static-binary', { mimeType: 'image/png' },
        uri => one(uri, { mimeType: 'image/png', blob: png }));
    server.registerResource('watched', 'test://watched-resource', plain,
        uri => one(uri, { ...plain, text: 'Watched resource content' }));
}

function addTemplate(server, ResourceTemplate) {
    const template = new ResourceTemplate('test://template/{id}/data', { list: undefined });
    server.registerResource('template', template, { mimeType: 'application/json' },
        (uri, { id }) => ({
            contents: [{
                uri: uri.href, mimeType: 'application/json',
                text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }),
            }],
        }));
}

function addPrompts(server) {
    const prompt = (name, argsSchema, messages) => server.registerPrompt(name,
        { description: name, ...(argsSchema ? { argsSchema } : {}) },
        args => ({ messages: messages(args) }));
    prompt('test_simple_prompt', undefined,
        () => [fromUser(text('This is a simple prompt for testing.'))]);
    prompt('test_prompt_with_arguments', { arg1: z.string(), arg2: z.string() },
        ({ arg1, arg2 }) => [fromUser(
            text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))]);
    prompt('test_prompt_with_embedded_resource', { resourceUri: z.string() },
        ({ resourceUri }) => [
            fromUser(embedded(resourceUri, 'text/plain', 'Embedded resource content for testing.')),
            fromUser(text('Please process the embedded resource above.'))]);
    prompt('test_prompt_with_image', undefined,
        () => [fromUser(image), fromUser(text('Please analyze the image above.'))]);
}

// notify(context, notification) sends one that belongs to the call; tokenOf(context) is its
// progress token.
function addNotifying(server, { notify, tokenOf }) {
    server.registerTool('test_tool_with_progress', { description: 'progress' }, async (context) => {
        for (const progress of [0, 50, 100]) {
            await notify(context, {
                method: 'notifications/progress',
                params: { progressToken: tokenOf(context) ?? 0, progress, total: 100 },
            });
        }
        return { content: [text(String(tokenOf(context) ?? 0))] };
    });
    server.registerTool('test_tool_with_logging', { description: 'logging' }, async (context) => {
        for (const data of ['Tool execution started', 'Tool processing data',
            'Tool execution completed']) {
            await notify(context,
                { method: 'notifications/message', params: { level: 'info', data } });
        }
        return { content: [text('logged')] };
    });
}

export function addFixtures(server, generation) {
    addContent(server);
    addResources(server);
    addTemplate(server, generation.ResourceTemplate);
    addPrompts(server);
    addNotifying(server, generation);
}

const choice = (title, names) => ({ type: 'string', title, enum: names });

// Forms whose fields have defaults, and every way to write a choice.
const forms = {
    test_elicitation_sep1034_defaults: {
        name: { type: 'string', default: 'John Doe' },
        age: { type: 'integer', default: 30 },
        score: { type: 'number', default: 95.5 },
        status: { ...choice('Status', ['active', 'inactive', 'pending']), default: 'active' },
        verified: { type: 'boolean', default: true },
    },
    test_elicitation_sep1330_enums: {
        untitledSingle: choice('One', ['option1', 'option2', 'option3']),
        titledSingle: {
            type: 'string',
            oneOf: ['1', '2', '3'].map(n => ({ const: `value${n}`, title: `Option ${n}` })),
        },
        legacyEnum: {
            ...choice('Old', ['opt1', 'opt2', 'opt3']), enumNames: ['Option 1', 'Option 2', 'Option 3'],
        },
        untitledMulti: {
            type: 'array', minItems: 1, maxItems: 3,
            items: { type: 'string', enum: ['option1', 'option2', 'option3'] },
        },
        titledMulti: {
            type: 'array', minItems: 1, maxItems: 3,
            items: {
                anyOf: ['1', '2', '3'].map(n => ({ const: `value${n}`, title: `Choice ${n}` })),
            },
        },
    },
};

export function addAskingFixtures(server) {
    const related = extra => ({ relatedRequestId: extra.requestId });
    server.registerTool('test_sampling', { inputSchema: { prompt: z.string() } },
        async ({ prompt }, extra) => {
            const { content } = await server.server.createMessage(
                { messages: [fromUser(text(prompt))], maxTokens: 100 }, related(extra));
            return { content: [text(`LLM response: ${content.text}`)] };
        });
    const ask = async (message, properties, required, extra) => {
        const answer = await server.server.elicitInput(
            { message, requestedSchema: { type: 'object', properties, required } }, related(extra));
        return { content: [text(`action=${answer.action}, content=${JSON.stringify(answer.content)}`)] };
    };
    server.registerTool('test_elicitation', { inputSchema: { message: z.string() } },
        ({ message }, extra) => ask(message, {
            username: { type: 'string' }, email: { type: 'string' },
        }, ['username', 'email'], extra));
    for (const [name, properties] of Object.entries(forms))
        server.registerTool(name, {}, extra => ask('Please fill in', properties, [], extra));
    server.registerTool('test_reconnection', {}, (extra) => {
        extra.closeSSEStream?.();
        return { content: [text('Reconnection test completed successfully.')] };
    });
}
