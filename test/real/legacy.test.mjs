// SPDX-License-Identifier: Apache-2.0
// HTTP+SSE (revision 2024-11-05, SDK 1.x's SSE client and server), directly and through the
// gateway: the POST URL is learnt from the first event of the stream.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { compare } from './lib/both.mjs';
import { call, connectSse } from './lib/clients.mjs';
import { stock } from './lib/gateway.mjs';
import { ownerOf, soon, until } from './lib/servers.mjs';

// The session is a part of the endpoint that the client was told, in one form or another.
function sessionOf(client) {
    const endpoint = client.transport._endpoint;
    return endpoint.searchParams.get('sessionId') ?? endpoint.pathname.split('/').pop();
}

async function withClient(url, use) {
    const client = await connectSse(url);
    try {
        return await soon(use(client), 'the scenario');
    } finally {
        await client.close();
    }
}

// What every form of endpoint has to do: url(target) is where its clients connect.
function conversation(both, url) {
    both('lists, calls, errors and a large result', target => withClient(url(target),
        async client => ({
            tools: await client.listTools(),
            echo: await call(client, 'echo', { text: 'grüße \u2028 世界' }),
            failed: await client.callTool({ name: 'fail' }),
            big: (await call(client, 'big', { bytes: 1 << 18 })).length,
            many: await Promise.all([...Array(20).keys()]
                .map(i => call(client, 'echo', { text: `n${i}` }))),
        })));

    both('progress while the tool runs', target => withClient(url(target), async (client) => {
        const heard = [];
        const onprogress = ({ progress }) => {
            heard.push(progress);
            call(client, 'step').catch(() => {});
        };
        return { result: await call(client, 'steps', { count: 4 }, { onprogress }), heard };
    }));

    both('sampling and elicitation', target => withClient(url(target), async client => [
        await call(client, 'ask_model', { apart: false }),
        await call(client, 'ask_user', { apart: true }),
    ]));
}

// What only the gateway can be asked: several clients, several servers.
function affinity(through, url) {
    test('each client talks to the server that it is connected to', { skip: stock }, async () => {
        const target = through();
        const clients = await Promise.all([...Array(12).keys()]
            .map(() => connectSse(url(target))));
        const answers = await Promise.all(clients.map(client => call(client, 'whoami')));
        for (const [i, answer] of answers.entries())
            assert.equal(answer.split(' ')[1], sessionOf(clients[i]));
        assert.equal(new Set(answers.map(answer => answer.split(' ')[0])).size, 3);
        await Promise.all(clients.map(client => client.close()));
    });
}

function leaving(both, url) {
    both('a client that leaves closes its stream, and its endpoint is 404 from then on',
        async (target) => {
            const client = await connectSse(url(target));
            const owner = await ownerOf(target.servers, sessionOf(client));
            const endpoint = client.transport._endpoint;
            const id = sessionOf(client);
            await client.close();
            await until(async () => !(await owner.tell('sessions')).some(s => s.id === id),
                'the server sees the client go');
            const answer = await fetch(endpoint, {
                method: 'POST', body: '{"jsonrpc":"2.0","id":1,"method":"ping"}',
                headers: { 'Content-Type': 'application/json' },
            });
            return answer.status;
        });
}

const roots = [
    { path: '/sse', to: 'balancer://mcp/sse' },
    { path: '/message', to: 'balancer://mcp/message' },
];
const atRoot = target => target.url('/sse');

describe('/message?sessionId=ID', () => {
    const { both, through } = compare({ kind: 'legacy', settings: {}, place: roots });
    conversation(both, atRoot);
    affinity(through, atRoot);
    leaving(both, atRoot);
});

describe('/message/ID', () => {
    const { both, through } = compare({
        kind: 'legacy', settings: { endpoint: 'path' }, place: roots,
    });
    conversation(both, atRoot);
    affinity(through, atRoot);
    leaving(both, atRoot);
});

// The server writes its own address, which the gateway must turn into the gateway's: the SDK's
// client refuses an endpoint of another origin.
describe('http://HOST:PORT/message?sessionId=ID', { skip: stock }, () => {
    const { both, through } = compare({
        kind: 'legacy', settings: { endpoint: 'absolute' }, place: roots,
    });
    conversation(both, atRoot);
    affinity(through, atRoot);
});

// The gateway's path is not the server's.
describe('behind a path prefix', { skip: stock }, () => {
    const prefixed = target => target.url(target.via === 'direct' ? '/sse' : '/apps/one/sse');
    for (const endpoint of ['query', 'path', 'absolute']) {
        describe(endpoint, () => {
            const { both, through } = compare({
                kind: 'legacy', settings: { endpoint },
                place: [{ path: '/apps/one/', to: 'balancer://mcp/' }],
            });
            conversation(both, prefixed);
            affinity(through, prefixed);
        });
    }
});

describe('one path prefix onto another', { skip: stock }, () => {
    const moved = target => target.url(target.via === 'direct' ? '/inner/sse' : '/outer/sse');
    const { both, through } = compare({
        kind: 'legacy', settings: { prefix: '/inner' },
        place: [{ path: '/outer', to: 'balancer://mcp/inner' }],
    });
    conversation(both, moved);
    affinity(through, moved);
});

describe('an endpoint on somebody else\'s host', { skip: stock }, () => {
    const { through, world } = compare({
        kind: 'legacy', settings: { endpoint: 'foreign' }, place: roots,
    });
    test('is 502 and reaches no client', async () => {
        world.gateway.expect(/mcp_proxy/);
        const answer = await soon(fetch(through().url('/sse'),
            { headers: { Accept: 'text/event-stream' } }), 'an answer');
        assert.equal(answer.status, 502);
        assert.doesNotMatch(await answer.text(), /elsewhere/);
    });
});
