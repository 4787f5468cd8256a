// SPDX-License-Identifier: Apache-2.0
// MCPProxySessionStore redis with real clients: two gateways that share a Redis, each request at the
// other one. Redis is stopped and comes back, gateways restart. The client must not notice any of it.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect1, connectSse, textOf } from './lib/clients.mjs';
import { startGateway, stock } from './lib/gateway.mjs';
import { soon, start, startServers, stop, until } from './lib/servers.mjs';

const names = ['a', 'b', 'c'];
const call = async (client, name, args = {}, ...rest) =>
    textOf(await client.callTool({ name, arguments: args }, undefined, ...rest));

describe('a session store in Redis', { skip: stock }, () => {
    const work = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-store-'));
    const socket = path.join(work, 'redis');
    let redis;
    let servers;
    let gateways;

    function openGateway() {
        const members = Object.keys(servers).map(name => ({ name, servers: servers[name] }));
        return startGateway({
            balancers: members,
            locations: [{ path: '/sessions', to: 'balancer://sessions/mcp' },
                { path: '/legacy/', to: 'balancer://legacy/' }],
            directives: [`MCPProxySessionStore "redis+unix:${socket}?db=6"`,
                'MCPProxyDrainTimeout 1s'],
        });
    }

    before(async () => {
        fs.chmodSync(work, 0o755);
        redis = start('redis-server', ['--port', '0', '--unixsocket', socket, '--unixsocketperm',
            '777', '--save', '', '--appendonly', 'no', '--dir', work], { stdio: 'ignore' });
        await until(() => fs.existsSync(socket), 'Redis listens');
        const [sessions, legacy] = await Promise.all(['sessions', 'legacy'].map(kind =>
            startServers(names, kind, { resumable: true, retry: 20 })));
        servers = { sessions, legacy };
        gateways = await Promise.all([openGateway(), openGateway()]);
    });
    after(async () => {
        try {
            await Promise.all((gateways ?? []).map(gateway => gateway.stop()));
        } finally {
            await Promise.all(Object.values(servers ?? {}).flat().map(server => server.stop()));
            redis?.kill('SIGCONT');
            await stop(redis);
            fs.rmSync(work, { recursive: true });
        }
    });

    // A fetch that sends each request to the next gateway, as a load balancer does.
    function inTurn() {
        let turn = 0;
        return (url, init) => {
            const next = new URL(url);
            next.port = gateways[turn++ % gateways.length].port;
            return fetch(next, init);
        };
    }

    const open = () => connect1(gateways[0].url('/sessions'), { fetch: inTurn() });

    const listens = client => until(async () => (await Promise.all(servers.sessions.map(server =>
        server.seen()))).flat().some(entry => entry.method === 'GET' && entry.open
        && entry.headers['mcp-session-id'] === client.transport.sessionId), 'the standing stream');

    async function talk(client) {
        const onprogress = () => { call(client, 'step').catch(() => {}); };
        assert.equal(await call(client, 'steps', { count: 3 }, { onprogress }), '3 steps');
        assert.equal(await call(client, 'ask_model', { apart: true }), 'abacus: four');
        assert.equal(await call(client, 'ask_user', { apart: false }), 'accept: Ada');
        assert.equal(await call(client, 'drop_call'), 'fetched later');
        const answers = await Promise.all([...Array(20).keys()]
            .map(i => call(client, 'echo', { text: `n${i}` })));
        assert.deepEqual(answers, answers.map((_, i) => `n${i}`));
    }

    async function end(client) {
        await client.transport.terminateSession();
        await client.close();
    }

    test('many sessions, each at home on both gateways', () => soon((async () => {
        const clients = await Promise.all([...Array(6)].map(open));
        for (const client of clients) {
            await listens(client);
            await talk(client);
        }
        await Promise.all(clients.map(end));
    })(), 'the conversations', 60000));

    test('a session goes on through graceful restarts of both', () => soon((async () => {
        const client = await open();
        await listens(client);
        for (const gateway of gateways) {
            const count = () => gateway.errorLog().split('resuming normal operations').length;
            const was = count();
            gateway.child.kill('SIGUSR1');
            await until(() => count() > was, 'the restart');
        }
        await listens(client);
        await call(client, 'announce', { text: 'after' });
        await until(() => client.heard.includes('after'), 'the announcement');
        await talk(client);
        await end(client);
    })(), 'the conversation', 60000));

    test('a session goes on while Redis stands still', () => soon((async () => {
        for (const gateway of gateways)
            gateway.expect(/MCP2100/);
        const client = await open();
        await listens(client);
        // Both gateways know it now.
        await talk(client);
        redis.kill('SIGSTOP');
        await talk(client);
        redis.kill('SIGCONT');
        await talk(client);
        await end(client);
    })(), 'the conversation', 60000));

    test('HTTP+SSE: the stream at one gateway, the posts at both', () => soon((async () => {
        const client = await connectSse(gateways[0].url('/legacy/sse'), { fetch: inTurn() });
        const onprogress = () => { call(client, 'step').catch(() => {}); };
        assert.equal(await call(client, 'steps', { count: 3 }, { onprogress }), '3 steps');
        assert.equal(await call(client, 'ask_user', { apart: true }), 'accept: Ada');
        await client.close();
    })(), 'the conversation', 30000));
});
