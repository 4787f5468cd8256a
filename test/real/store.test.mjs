// SPDX-License-Identifier: Apache-2.0
// MCPProxySessionStore redis with real clients: two gateways that share a Redis, each request at the
// other one. Redis is stopped and comes back, gateways restart. The client must not notice any of it.
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { call, connect1, connectSse } from './lib/clients.mjs';
import { stock } from './lib/gateway.mjs';
import { countSteps, end, inTurn, listens, pair, talk } from './lib/pair.mjs';
import { soon, until } from './lib/servers.mjs';
import { startRedis } from './lib/stores.mjs';

describe('a session store in Redis', { skip: stock }, () => {
    let redis;
    const world = pair(async (work) => {
        redis = await startRedis(work);
        return [`MCPProxySessionStore "${redis.url}"`];
    });
    after(async () => {
        redis?.kill('SIGCONT');
        await redis?.stop();
    });

    // A client that listens.
    async function open() {
        const client = await connect1(world.gateways[0].url('/sessions'),
            { fetch: inTurn(world.gateways) });
        await listening(client);
        return client;
    }
    const listening = client => listens(world.servers.sessions, client.transport.sessionId);

    test('many sessions, each at home on both gateways', () => soon((async () => {
        const clients = await Promise.all([...Array(6)].map(open));
        for (const client of clients)
            await talk(client);
        await Promise.all(clients.map(end));
    })(), 'the conversations', 60000));

    test('a session goes on through graceful restarts of both', () => soon((async () => {
        const client = await open();
        for (const gateway of world.gateways)
            await gateway.graceful();
        await listening(client);
        await call(client, 'announce', { text: 'after' });
        await until(() => client.heard.includes('after'), 'the announcement');
        await talk(client);
        await end(client);
    })(), 'the conversation', 60000));

    test('a session goes on while Redis stands still', () => soon((async () => {
        for (const gateway of world.gateways)
            gateway.expect(/MCP2100/);
        const client = await open();
        // Both gateways know it now.
        await talk(client);
        redis.kill('SIGSTOP');
        await talk(client);
        redis.kill('SIGCONT');
        await talk(client);
        await end(client);
    })(), 'the conversation', 60000));

    test('HTTP+SSE: the stream at one gateway, the posts at both', () => soon((async () => {
        const client = await connectSse(world.gateways[0].url('/legacy/sse'),
            { fetch: inTurn(world.gateways) });
        await countSteps(client);
        assert.equal(await call(client, 'ask_user', { apart: true }), 'accept: Ada');
        await client.close();
    })(), 'the conversation', 30000));
});
