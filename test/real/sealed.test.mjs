// SPDX-License-Identifier: Apache-2.0
// MCPProxyAffinity sealed with real clients: two gateways that share nothing but a key, each request
// at the other one, and restarts in between. The client must not notice any of it.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { call, connect1, connectSse } from './lib/clients.mjs';
import { stock } from './lib/gateway.mjs';
import { countSteps, end, inTurn, listens, pair, talk } from './lib/pair.mjs';
import { ownerOf, soon, until } from './lib/servers.mjs';
import { keysIn } from './lib/stores.mjs';

describe('sealed ids', { skip: stock }, () => {
    const world = pair(work => ['MCPProxyAffinity sealed', keysIn(work)]);

    const idsOf = async servers => (await Promise.all(servers.map(server => server.tell('sessions'))))
        .flat().map(session => session.id);

    // Opens a client, and finds out by which id its server knows it.
    async function opened(servers, connect) {
        const known = new Set(await idsOf(servers));
        const client = await connect();
        const id = (await idsOf(servers)).find(each => !known.has(each));
        return { client, id };
    }

    // A gateway that is stopped refuses connections for a while, and the SDK's own two attempts in a
    // row are soon over.
    const reconnectionOptions = {
        maxRetries: 100, initialReconnectionDelay: 20, maxReconnectionDelay: 200,
        reconnectionDelayGrowFactor: 1.5,
    };
    const openSession = () => opened(world.servers.sessions,
        () => connect1(world.gateways[0].url('/sessions'),
            { fetch: inTurn(world.gateways), reconnectionOptions }));

    test('a session is at home on every gateway', () => soon((async () => {
        const { sessions } = world.servers;
        const { client, id } = await openSession();
        assert.notEqual(client.transport.sessionId, id);
        assert.match(client.transport.sessionId, /^[\w-]{30,511}$/);
        await listens(sessions, id);
        await talk(client);
        await end(client);
        assert.equal(await ownerOf(sessions, id), undefined);
    })(), 'the conversation', 30000));

    const again = {
        'a graceful restart': gateway => gateway.graceful(),
        'a restart': gateway => gateway.reload('SIGHUP'),
        'a stop and start': gateway => gateway.restart(),
    };
    for (const [how, restart] of Object.entries(again)) {
        test(`a session goes on after ${how}`, () => soon((async () => {
            const { client, id } = await openSession();
            const text = client.transport.sessionId;
            await listens(world.servers.sessions, id);
            await call(client, 'announce', { text: 'before' });
            await until(() => client.heard.includes('before'), 'the first announcement');
            for (const gateway of world.gateways)
                await restart(gateway);
            // Its standing stream broke off; it comes back by itself, with Last-Event-ID.
            await listens(world.servers.sessions, id);
            // What is said while an old child lets go of the stream is nobody's: say it again.
            while (!client.heard.includes('after')) {
                await call(client, 'announce', { text: 'after' });
                await new Promise(heard => setTimeout(heard, 100));
            }
            await talk(client);
            assert.equal(client.transport.sessionId, text);
            await end(client);
        })(), 'the conversation', 60000));
    }

    test('HTTP+SSE goes through all gateways', () => soon((async () => {
        // The stream is at the first gateway; the posts are everywhere.
        const { client, id } = await opened(world.servers.legacy,
            () => connectSse(world.gateways[0].url('/legacy/sse'), { fetch: inTurn(world.gateways) }));
        assert.ok(!client.transport._endpoint.href.includes(id));
        await countSteps(client);
        assert.equal(await call(client, 'ask_user', { apart: true }), 'accept: Ada');
        await client.close();
    })(), 'the conversation', 30000));
});
