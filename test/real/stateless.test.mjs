// SPDX-License-Identifier: Apache-2.0
// The stateless generation (SDK 2.x, 2026-07-28), directly and through the gateway, and the two
// generations with each other's servers.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { compare } from './lib/both.mjs';
import { connect1, connect2, textOf } from './lib/clients.mjs';
import { stock } from './lib/gateway.mjs';
import { soon, until } from './lib/servers.mjs';

const place = [{ path: '/mcp', to: 'balancer://mcp/mcp' }];
const revision = '2026-07-28';

const call = async (client, name, args = {}, options) =>
    textOf(await client.callTool({ name, arguments: args }, options));

async function withClient(target, use) {
    const client = await connect2(target.url('/mcp'));
    try {
        return await soon(use(client), 'the scenario');
    } finally {
        await client.close();
    }
}

const allSeen = async target =>
    (await Promise.all(target.servers.map(server => server.seen()))).flat();
const tellAll = (target, what, argument) =>
    Promise.all(target.servers.map(server => server.tell(what, argument)));
const sum = (list, key) => list.reduce((total, entry) => total + entry[key], 0);

for (const responseMode of ['auto', 'sse', 'json']) {
    describe(`answers: ${responseMode}`, () => {
        const { both } = compare({ kind: 'stateless', settings: { responseMode }, place });
        both('discovery, lists, resources and calls', target => withClient(target, async client => ({
            revision: client.getNegotiatedProtocolVersion?.(),
            tools: await client.listTools(),
            read: (await client.readResource({ uri: 'test://readme' })).contents,
            echo: await call(client, 'echo', { text: 'grüße \u2028 世界' }),
            many: await Promise.all([...Array(30).keys()]
                .map(i => call(client, 'echo', { text: `n${i}` }))),
            big: (await call(client, 'big', { bytes: 1 << 20 })).length,
        })));
        both('a tool that needs input is asked again with the answer', target => withClient(target,
            client => call(client, 'confirm')));
    });
}

describe('streams', () => {
    const { both, through, world } = compare({ kind: 'stateless', settings: {}, place });

    both('progress arrives while the tool is still running', target => withClient(target,
        async (client) => {
            const heard = [];
            const onprogress = ({ progress }) => {
                heard.push(progress);
                tellAll(target, 'step');
            };
            return { result: await call(client, 'steps', { count: 4 }, { onprogress }), heard };
        }));

    both('a subscription hears of changes and ends at the server when it is closed',
        target => withClient(target, async (client) => {
            const heard = [];
            client.setNotificationHandler('notifications/tools/list_changed',
                () => { heard.push('tools'); });
            client.setNotificationHandler('notifications/resources/updated',
                ({ params }) => { heard.push(params.uri); });
            const subscription = await client.listen({
                toolsListChanged: true, resourceSubscriptions: ['test://readme'],
            });
            await tellAll(target, 'toolsChanged');
            await until(() => heard.length === 1, 'the first change');
            await tellAll(target, 'resourceUpdated', { uri: 'test://readme' });
            await until(() => heard.length === 2, 'the second change');
            await subscription.close();
            await until(async () => (await allSeen(target)).every(entry => !entry.open),
                'the server sees the subscription end');
            return { heard, filter: subscription.honoredFilter };
        }));

    both('closing the stream of a call cancels it at the server', target => withClient(target,
        async (client) => {
            const before = sum(await tellAll(target, 'counts'), 'cancelled');
            const control = new AbortController();
            const calling = client.callTool({ name: 'hang' },
                { signal: control.signal, onprogress: () => control.abort() });
            await assert.rejects(calling);
            return until(async () =>
                sum(await tellAll(target, 'counts'), 'cancelled') - before, 'the cancellation');
        }));

    both('a client that vanishes cancels what it had running', async (target) => {
        const before = sum(await tellAll(target, 'counts'), 'cancelled');
        const client = await connect2(target.url('/mcp'));
        await soon(new Promise((resolve) => {
            client.callTool({ name: 'hang' }, { onprogress: resolve }).catch(() => {});
        }), 'the call runs');
        await client.close();
        return until(async () =>
            sum(await tellAll(target, 'counts'), 'cancelled') - before, 'the cancellation');
    });

    test('calls are spread over all servers', { skip: stock }, async () => {
        const client = await connect2(through().url('/mcp'));
        const names = await Promise.all([...Array(30).keys()].map(() => call(client, 'whoami')));
        await client.close();
        assert.equal(new Set(names).size, world.servers.length);
    });
});

// A request of the 2026-07-28 revision, with what a test wants wrong about it.
function post(url, { method = 'tools/call', params = {}, headers = {}, id = 41 }) {
    const meta = {
        'io.modelcontextprotocol/protocolVersion': revision,
        'io.modelcontextprotocol/clientInfo': { name: 'raw', version: '1' },
        'io.modelcontextprotocol/clientCapabilities': {},
    };
    const body = JSON.stringify({ jsonrpc: '2.0', id, method, params: { ...params, _meta: meta } });
    const all = {
        'Content-Type': 'application/json', Accept: 'application/json, text/event-stream',
        'MCP-Protocol-Version': revision, 'Mcp-Method': method, ...headers,
    };
    for (const name of Object.keys(all))
        if (all[name] === undefined)
            delete all[name];
    return fetch(url, { method: 'POST', headers: all, body });
}

describe('headers against the body', () => {
    const { both } = compare({ kind: 'stateless', settings: {}, place });
    const echo = { name: 'echo', arguments: { text: 'x' } };
    const wrong = {
        'another method': { params: echo, headers: { 'Mcp-Method': 'tools/list', 'Mcp-Name': 'echo' } },
        'no method': { params: echo, headers: { 'Mcp-Method': undefined, 'Mcp-Name': 'echo' } },
        'another name': { params: echo, headers: { 'Mcp-Name': 'whoami' } },
        'no name': { params: echo },
    };
    for (const [what, request] of Object.entries(wrong)) {
        both(`${what} is 400 with -32020`, async (target) => {
            const answer = await post(target.url('/mcp'), request);
            const { jsonrpc, id, error } = await answer.json();
            assert.deepEqual([answer.status, error.code], [400, -32020]);
            return { status: answer.status, jsonrpc, id, code: error.code };
        });
    }
    both('a name in Base64 and Mcp-Param headers pass', async (target) => {
        const coded = `=?base64?${Buffer.from('echo').toString('base64')}?=`;
        const answer = await post(target.url('/mcp'), {
            params: echo, headers: { 'Mcp-Name': coded, 'Mcp-Param-Region': 'eu-1' },
        });
        const seen = (await allSeen(target)).filter(entry => entry.headers['mcp-param-region']);
        const last = seen.at(-1).headers;
        return {
            status: answer.status, id: (await answer.json()).id,
            param: last['mcp-param-region'], name: last['mcp-name'], method: last['mcp-method'],
        };
    });
});

describe('a client of one generation with a server of the other', () => {
    const { both } = compare({ kind: 'stateless', settings: {}, place });
    both('a client with sessions finds a server without', async (target) => {
        const client = await connect1(target.url('/mcp'));
        const outcome = {
            echo: textOf(await client.callTool({ name: 'echo', arguments: { text: 'old' } })),
            session: client.transport.sessionId,
        };
        await client.close();
        return { ...outcome, session: outcome.session ?? null };
    });
});

describe('a client that negotiates', () => {
    const { both } = compare({ kind: 'sessions', settings: {}, place });
    both('falls back to a session', async (target) => {
        const client = await connect2(target.url('/mcp'), 'auto');
        const outcome = {
            echo: await call(client, 'echo', { text: 'new' }),
            version: client.getNegotiatedProtocolVersion?.() ?? null,
        };
        await client.close();
        return outcome;
    });
});
