// SPDX-License-Identifier: Apache-2.0
// Two gateways in front of the same servers, and clients whose requests reach them in turn, as behind
// a load balancer.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before } from 'node:test';
import { call } from './clients.mjs';
import { startGateway } from './gateway.mjs';
import { startServers, until } from './servers.mjs';

// For the tests of one describe(). directives: a function of a folder that both gateways can read.
// Answers { gateways, servers: { sessions, legacy } }, which are there once tests run.
export function pair(directives) {
    const work = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-pair-'));
    const world = {};
    before(async () => {
        const [sessions, legacy] = await Promise.all(['sessions', 'legacy'].map(kind =>
            startServers(['a', 'b', 'c'], kind, { resumable: true, retry: 20 })));
        world.servers = { sessions, legacy };
        const setup = {
            balancers: [{ name: 'sessions', servers: sessions }, { name: 'legacy', servers: legacy }],
            locations: [{ path: '/sessions', to: 'balancer://sessions/mcp' },
                { path: '/legacy/', to: 'balancer://legacy/' }],
            directives: ['MCPProxyDrainTimeout 1s', ...await directives(work)],
        };
        world.gateways = await Promise.all([startGateway(setup), startGateway(setup)]);
    });
    after(async () => {
        try {
            await Promise.all((world.gateways ?? []).map(gateway => gateway.stop()));
        } finally {
            await Promise.all(Object.values(world.servers ?? {}).flat().map(server => server.stop()));
            fs.rmSync(work, { recursive: true });
        }
    });
    return world;
}

// A fetch that sends each request to the next gateway, and on to the one after it if that is down.
// url: of any of them.
export function inTurn(gateways) {
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

// Until one of the servers has the standing stream of the session that it knows by this id.
export function listens(servers, id) {
    return until(async () => (await Promise.all(servers.map(server => server.seen()))).flat()
        .some(entry => entry.method === 'GET' && entry.open && entry.headers['mcp-session-id'] === id),
    'the standing stream');
}

// Progress in lock-step: the server goes on when the client has said that it heard of the last step.
export async function countSteps(client) {
    const onprogress = () => { call(client, 'step').catch(() => {}); };
    assert.equal(await call(client, 'steps', { count: 3 }, { onprogress }), '3 steps');
}

// The above, requests from server to client, a stream that breaks off and is resumed, much at once.
export async function talk(client) {
    await countSteps(client);
    assert.equal(await call(client, 'ask_model', { apart: true }), 'abacus: four');
    assert.equal(await call(client, 'ask_user', { apart: false }), 'accept: Ada');
    assert.equal(await call(client, 'drop_call'), 'fetched later');
    assert.equal((await call(client, 'big', { bytes: 500000 })).length, 500000);
    const answers = await Promise.all([...Array(20).keys()]
        .map(i => call(client, 'echo', { text: `n${i}` })));
    assert.deepEqual(answers, answers.map((_, i) => `n${i}`));
}

// The client ends its session, and itself.
export async function end(client) {
    await client.transport.terminateSession();
    await client.close();
}
