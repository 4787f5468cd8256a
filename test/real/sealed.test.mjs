// SPDX-License-Identifier: Apache-2.0
// MCPProxyAffinity sealed with real clients: two gateways that share nothing but a key, each request
// at the other one, and restarts in between. The client must not notice any of it.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { connect1, connectSse, textOf } from './lib/clients.mjs';
import { startGateway, stock } from './lib/gateway.mjs';
import { soon, startServers, until } from './lib/servers.mjs';

const names = ['a', 'b', 'c'];
const call = async (client, name, args = {}, ...rest) =>
    textOf(await client.callTool({ name, arguments: args }, undefined, ...rest));

describe('sealed ids', { skip: stock }, () => {
    const work = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-sealed-'));
    const key = path.join(work, 'key');
    let servers;
    let gateways;

    function openGateway() {
        const members = Object.keys(servers).map(name => ({ name, servers: servers[name] }));
        return startGateway({
            balancers: members,
            locations: [{ path: '/sessions', to: 'balancer://sessions/mcp' },
                { path: '/legacy/', to: 'balancer://legacy/' }],
            directives: ['MCPProxyAffinity sealed', `MCPProxySessionKey file:${key}`,
                'MCPProxyDrainTimeout 1s'],
        });
    }

    before(async () => {
        fs.writeFileSync(key, `${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
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
            fs.rmSync(work, { recursive: true });
        }
    });

    // A fetch that sends each request to the next gateway, and on to the one after it if that is
    // down, as a load balancer does. url: of any of them.
    function inTurn() {
        let turn = 0;
        const ask = async (url, init, tries) => {
            const next = new URL(url);
            next.port = gateways[turn++ % gateways.length].port;
            try {
                return await fetch(next, init);
            } catch (error) {
                if (error.cause?.code !== 'ECONNREFUSED' || tries === 1)
                    throw error;
                return ask(url, init, tries - 1);
            }
        };
        return (url, init) => ask(url, init, gateways.length);
    }

    const all = async kind => (await Promise.all(servers[kind].map(server => server.tell('sessions'))))
        .flat().map(session => session.id);

    // Opens a client, and finds out by which id its server knows it.
    async function opened(kind, connect) {
        const known = new Set(await all(kind));
        const client = await connect();
        const id = (await all(kind)).find(each => !known.has(each));
        const owner = (await Promise.all(servers[kind].map(async server =>
            ((await server.tell('sessions')).some(each => each.id === id) ? server : undefined))))
            .find(server => server);
        return { client, id, owner };
    }

    // A gateway that is stopped refuses connections for a while, and the SDK's own two attempts in a
    // row are soon over.
    const reconnectionOptions = {
        maxRetries: 100, initialReconnectionDelay: 20, maxReconnectionDelay: 200,
        reconnectionDelayGrowFactor: 1.5,
    };
    const openSession = () => opened('sessions',
        () => connect1(gateways[0].url('/sessions'), { fetch: inTurn(), reconnectionOptions }));
    const listens = ({ owner, id }) => until(async () => (await owner.seen()).some(entry =>
        entry.method === 'GET' && entry.open && entry.headers['mcp-session-id'] === id),
    'the standing stream');

    // Progress in lock-step, requests from server to client, a stream that breaks off and is resumed.
    async function talk(client) {
        const onprogress = () => { call(client, 'step').catch(() => {}); };
        assert.equal(await call(client, 'steps', { count: 3 }, { onprogress }), '3 steps');
        assert.equal(await call(client, 'ask_model', { apart: true }), 'abacus: four');
        assert.equal(await call(client, 'ask_user', { apart: false }), 'accept: Ada');
        assert.equal(await call(client, 'drop_call'), 'fetched later');
        assert.equal((await call(client, 'big', { bytes: 500000 })).length, 500000);
        const answers = await Promise.all([...Array(20).keys()]
            .map(i => call(client, 'echo', { text: `n${i}` })));
        assert.deepEqual(answers, answers.map((_, i) => `n${i}`));
    }

    test('a session is at home on every gateway', () => soon((async () => {
        const session = await openSession();
        const { client, id, owner } = session;
        assert.notEqual(client.transport.sessionId, id);
        assert.match(client.transport.sessionId, /^[\w-]{30,511}$/);
        await listens(session);
        await talk(client);
        await client.transport.terminateSession();
        await client.close();
        assert.ok(!(await owner.tell('sessions')).some(each => each.id === id));
    })(), 'the conversation', 30000));

    for (const how of ['SIGUSR1', 'SIGHUP', 'a stop and start']) {
        test(`a session goes on after ${how}`, () => soon((async () => {
            const session = await openSession();
            const { client } = session;
            const text = client.transport.sessionId;
            await listens(session);
            await call(client, 'announce', { text: 'before' });
            await until(() => client.heard.includes('before'), 'the first announcement');
            for (const gateway of gateways)
                await again(gateway, how);
            // Its standing stream broke off; it comes back by itself, with Last-Event-ID.
            await listens(session);
            // What is said while an old child lets go of the stream is nobody's: say it again.
            while (!client.heard.includes('after')) {
                await call(client, 'announce', { text: 'after' });
                await new Promise(heard => setTimeout(heard, 100));
            }
            await talk(client);
            assert.equal(client.transport.sessionId, text);
            await client.transport.terminateSession();
            await client.close();
        })(), 'the conversation', 60000));
    }

    async function again(gateway, how) {
        if (how.startsWith('SIG')) {
            const count = () => gateway.errorLog().split('resuming normal operations').length;
            const before = count();
            gateway.child.kill(how);
            await until(() => count() > before, 'the restart');
        } else {
            await gateway.restart();
        }
    }

    test('HTTP+SSE goes through all gateways', () => soon((async () => {
        const fetchInTurn = inTurn();
        // The stream is at the first gateway; the posts are everywhere.
        const { client, id } = await opened('legacy',
            () => connectSse(gateways[0].url('/legacy/sse'), { fetch: fetchInTurn }));
        assert.ok(!client.transport._endpoint.href.includes(id));
        const onprogress = () => { call(client, 'step').catch(() => {}); };
        assert.equal(await call(client, 'steps', { count: 3 }, { onprogress }), '3 steps');
        assert.equal(await call(client, 'ask_user', { apart: true }), 'accept: Ada');
        await client.close();
    })(), 'the conversation', 30000));
});
