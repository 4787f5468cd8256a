// SPDX-License-Identifier: Apache-2.0
// MCPProxyRescue with real clients: their server's process is killed under them, and comes back with
// an empty memory, again and again. The client must not notice: no error, no new id, every call
// answered, announcements on the standing stream that it has had from the beginning.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { call, connect1, connect2 } from './lib/clients.mjs';
import { startGateway, stock } from './lib/gateway.mjs';
import { soon, startServers, until } from './lib/servers.mjs';
import { keysIn, startRedis } from './lib/stores.mjs';

const whereOf = async client => (await call(client, 'whoami')).split(' ')[0];

const stores = {
    table: () => [],
    sealed: work => ['MCPProxyAffinity sealed', keysIn(work)],
    redis: (work, redis) => [keysIn(work), `MCPProxySessionStore ${redis.url}`],
};
const withRedis = spawnSync('redis-server', ['--version']).status === 0;

for (const [name, directives] of Object.entries(stores)) {
    describe(`rescue, ${name}`, { skip: stock || (name === 'redis' && !withRedis) }, () => {
        const work = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-rescue-'));
        let servers;
        let kept;
        let gateway;
        let redis;

        before(async () => {
            redis = name === 'redis' ? await startRedis(work) : undefined;
            servers = await startServers(['a', 'b'], 'sessions', { retry: 20 });
            kept = await startServers(['c', 'd'], 'sessions', { resumable: true, retry: 20 });
            gateway = await startGateway({
                // A member that is back is used again at once.
                balancers: [{ name: 'mcp', servers }, { name: 'kept', servers: kept }],
                locations: [{ path: '/mcp', to: 'balancer://mcp/mcp' },
                    { path: '/kept', to: 'balancer://kept/mcp' }],
                directives: ['MCPProxyRescue On', ...directives(work, redis)],
            });
            gateway.expect(/MCP204[256]/, /AH01170/);
        });
        after(async () => {
            try {
                await gateway?.stop();
            } finally {
                await Promise.all([...servers ?? [], ...kept ?? []].map(server => server.stop()));
                await redis?.stop();
                fs.rmSync(work, { recursive: true });
            }
        });

        const named = wanted => servers.find(server => server.name === wanted);
        const sessionsOf = async server => server.tell('sessions');
        const streamsOf = async server => (await server.seen())
            .filter(entry => entry.method === 'GET' && entry.open).length;

        // As by the kernel, for want of memory.
        const kill = server => server.stop('SIGKILL');

        test('a 1.x client whose server is killed', () => soon((async () => {
            const client = await connect1(gateway.url('/mcp'));
            const id = client.transport.sessionId;
            const errors = [];
            client.onerror = error => errors.push(error);
            let home = await whereOf(client);
            await until(async () => await streamsOf(named(home)) === 1, 'the standing stream');
            for (let round = 0; round < 2; round++) {
                const dead = named(home);
                await kill(dead);
                // Many at once, the moment that it is gone.
                const answers = await Promise.all([...Array(20).keys()]
                    .map(i => call(client, 'echo', { text: `n${i}` })));
                assert.deepEqual(answers, answers.map((_, i) => `n${i}`));
                home = await whereOf(client);
                assert.notEqual(home, dead.name);
                await until(async () => await streamsOf(named(home)) === 1, 'the stream goes on');
                assert.equal((await sessionsOf(named(home))).length, 1);
                await call(client, 'announce', { text: `at ${home}` });
                await until(() => client.heard.at(-1) === `at ${home}`, 'the announcement');
                assert.equal(await call(client, 'ask_model', { apart: true }), 'abacus: four');
                await dead.start(dead.port);
            }
            assert.equal((await client.listTools()).tools.length > 5, true);
            assert.equal(client.transport.sessionId, id);
            assert.deepEqual(errors, []);
            await client.transport.terminateSession();
            await client.close();
            assert.deepEqual(await sessionsOf(named(home)), []);
        })(), 'the conversation', 60000));

        // Its events have ids, and a client comes back with the last one that it has heard, here not
        // before the session has been rescued by something else.
        test('a 1.x client that resumes its stream', () => soon((async () => {
            const gate = {};
            const shut = () => { gate.opened = new Promise((resolve) => { gate.open = resolve; }); };
            const sent = [];
            const client = await connect1(gateway.url('/kept'), {
                fetch: async (url, init) => {
                    if (init.method === 'GET') {
                        await gate.opened;
                        sent.push(init.headers.get('Last-Event-ID'));
                    }
                    return fetch(url, init);
                },
            });
            const of = name => kept.find(server => server.name === name);
            const hears = async (text) => {
                await call(client, 'announce', { text });
                await until(() => client.heard.at(-1) === text, text);
            };
            let home = of(await whereOf(client));
            await until(async () => await streamsOf(home) === 1, 'the standing stream');
            for (const round of [1, 2]) {
                await hears(`before ${round}`);
                shut();
                await call(client, 'drop_standing', { text: 'lost' });
                await kill(home);
                await home.start(home.port);
                // The first id of a server is the same everywhere: as often as it takes for the new
                // one to have the id that is about to come, of another stream.
                for (const i of [1, 2, 3, 4, 5, 6])
                    assert.equal(await call(client, 'echo', { text: `n${i}` }), `n${i}`);
                home = of(await whereOf(client));
                gate.open();
                await until(async () => await streamsOf(home) === 1, 'a stream at the new server');
                assert.notEqual(sent.at(-1), null);
                await hears(`after ${round}`);
                // Events of the new server are resumed as ever.
                await call(client, 'drop_standing', { text: 'kept' });
                await until(() => client.heard.at(-1) === 'kept 2', 'what came meanwhile');
                assert.equal(await call(client, 'drop_call'), 'fetched later');
            }
            assert.deepEqual(client.heard, [1, 2].flatMap(round =>
                [`before ${round}`, `after ${round}`, 'kept 1', 'kept 2']));
            await client.close();
        })(), 'the conversation', 60000));

        test('a 1.x client whose call is lost', () => soon((async () => {
            for (const [where, those] of [['/mcp', servers], ['/kept', kept]]) {
                const client = await connect1(gateway.url(where));
                const home = await whereOf(client);
                const dead = those.find(server => server.name === home);
                let steps = 0;
                const lost = assert.rejects(
                    call(client, 'hang', {}, { onprogress: () => { steps += 1; } }), { code: -31502 });
                await until(() => steps === 1, 'the call to be under way');
                await kill(dead);
                await lost;
                assert.notEqual(await whereOf(client), home);
                await call(client, 'announce', { text: where });
                await until(() => client.heard.at(-1) === where, 'the standing stream');
                await dead.start(dead.port);
                await client.close();
            }
        })(), 'the conversation', 60000));

        test('a 2.x client of the session generation', () => soon((async () => {
            const client = await connect2(gateway.url('/mcp'), 'auto');
            const errors = [];
            client.onerror = error => errors.push(error);
            let home = await whereOf(client);
            const dead = named(home);
            await kill(dead);
            home = await whereOf(client);
            assert.notEqual(home, dead.name);
            assert.equal(await call(client, 'echo', { text: 'on' }), 'on');
            await dead.start(dead.port);
            assert.deepEqual(errors, []);
            await client.close();
        })(), 'the conversation', 60000));

        test('a client whose session is forgotten', () => soon((async () => {
            const client = await connect1(gateway.url('/mcp'));
            const id = client.transport.sessionId;
            for (let round = 0; round < 2; round++) {
                const home = named(await whereOf(client));
                for (const { id: known } of await sessionsOf(home))
                    await home.tell('forget', { id: known });
                assert.equal(await call(client, 'echo', { text: 'on' }), 'on');
            }
            assert.equal(client.transport.sessionId, id);
            await client.close();
        })(), 'the conversation', 60000));
    });
}
