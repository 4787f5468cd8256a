// SPDX-License-Identifier: Apache-2.0
// Real clients that call all the time and hold their streams while the gateway restarts and its
// children are killed: no call fails, nobody begins a session anew, and streams come back.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { call, connect1, connect2 } from './lib/clients.mjs';
import { startGateway, stock } from './lib/gateway.mjs';
import { soon, startServers, until } from './lib/servers.mjs';
import { keysIn, startRedis } from './lib/stores.mjs';

const CLIENTS = 12;
const drain = 'MCPProxyDrainTimeout 2s';

const affinities = {
    table: () => [],
    sealed: work => ['MCPProxyAffinity sealed', keysIn(work)],
    redis: (work, redis) => [`MCPProxySessionStore ${redis.url}`],
};

// Servers and a gateway in front of them, for the tests of one describe().
function stage(kind, settings, affinity) {
    const work = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-restarts-'));
    const world = {};
    let redis;
    before(async () => {
        redis = affinity === 'redis' ? await startRedis(work) : undefined;
        world.servers = await startServers(['a', 'b', 'c'], kind, settings);
        world.gateway = await startGateway({
            balancers: [{ name: 'mcp', servers: world.servers }],
            locations: [{ path: '/mcp', to: 'balancer://mcp/mcp' }],
            directives: [drain, ...affinities[affinity](work, redis)],
        });
        // Redis has 25 ms to answer, on whatever machine this is: what then happens is tested too.
        world.gateway.expect(/MCP210[0-9]/);
    });
    after(async () => {
        try {
            await world.gateway?.stop();
        } finally {
            await Promise.all((world.servers ?? []).map(server => server.stop()));
            await redis?.stop();
            fs.rmSync(work, { recursive: true });
        }
    });
    return world;
}

// Calls one after the other, with pauses of all lengths, until stop(), which says what failed.
function callSteadily(clients) {
    const failed = [];
    let over = false;
    let count = 0;
    const running = clients.map(async (client, number) => {
        for (let i = 0; !over; i++) {
            const text = `${number}/${i}`;
            try {
                assert.equal(await call(client, 'echo', { text }), text);
                count++;
            } catch (error) {
                failed.push(`${text}: ${error.message} ${error.cause?.message ?? ''}`);
            }
            await new Promise(resolve => setTimeout(resolve, (number % 4) ** 3 * 5));
        }
    });
    return {
        failed,
        more: () => until((wanted => () => count >= wanted)(count + 5 * clients.length), 'more calls'),
        async stop() {
            over = true;
            await Promise.all(running);
            return failed;
        },
    };
}

// Whether each client has its standing stream at some server.
async function allStanding(world, clients) {
    const seen = (await Promise.all(world.servers.map(server => server.seen()))).flat();
    const open = seen.filter(entry => entry.method === 'GET' && entry.open).length;
    return open === clients.length;
}

async function hearAnnouncements(clients, text) {
    for (const client of clients)
        await call(client, 'announce', { text });
    await until(() => clients.every(client => client.heard.includes(text)), `all hear ${text}`);
}

async function withClients(connect, use) {
    const clients = await Promise.all([...Array(CLIENTS)].map(connect));
    try {
        return await use(clients);
    } finally {
        await Promise.all(clients.map(client => client.close()));
    }
}

for (const affinity of Object.keys(affinities)) {
    for (const settings of [{ resumable: true, retry: 20 }, {}]) {
        const kind = settings.resumable ? 'resumable' : 'plain';
        describe(`sessions, ${affinity}, ${kind}`, { skip: stock }, () => {
            const world = stage('sessions', settings, affinity);
            const connect = () => connect1(world.gateway.url('/mcp'));

            test('a graceful restart is not noticed', () => withClients(connect, async (clients) => {
                await until(() => allStanding(world, clients), 'the streams');
                const ids = clients.map(client => client.transport.sessionId);
                const calls = callSteadily(clients);
                for (const round of ['one', 'two']) {
                    await calls.more();
                    await world.gateway.graceful();
                    await until(() => allStanding(world, clients), 'the streams again');
                    await hearAnnouncements(clients, round);
                }
                await calls.more();
                assert.deepEqual(await calls.stop(), []);
                assert.deepEqual(clients.map(client => client.transport.sessionId), ids);
                assert.deepEqual(clients.flatMap(client => client.errors ?? []), []);
            }));

            test('sessions outlive killed children', () => withClients(connect, async (clients) => {
                await until(() => allStanding(world, clients), 'the streams');
                const ids = clients.map(client => client.transport.sessionId);
                await world.gateway.killAll();
                await until(() => allStanding(world, clients), 'the streams again');
                await hearAnnouncements(clients, 'after');
                assert.deepEqual(clients.map(client => client.transport.sessionId), ids);
            }));
        });
    }
}

describe('stateless', { skip: stock }, () => {
    const world = stage('stateless', {}, 'table');

    test('a graceful restart ends subscriptions gracefully and fails no call', () =>
        withClients(() => connect2(world.gateway.url('/mcp')), async (clients) => {
            const listen = () => Promise.all(clients.map(client =>
                client.listen({ toolsListChanged: true })));
            const calls = callSteadily(clients);
            const subscriptions = await listen();
            await world.gateway.graceful();
            const ends = await soon(Promise.all(subscriptions.map(one => one.closed)), 'the ends');
            assert.deepEqual(new Set(ends), new Set(['graceful']));
            await Promise.all((await listen()).map(one => one.close()));
            await calls.more();
            assert.deepEqual(await calls.stop(), []);
        }));
});
