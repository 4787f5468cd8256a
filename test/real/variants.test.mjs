// SPDX-License-Identifier: Apache-2.0
// The same conversation on every kind of connection: TLS to the clients and to the
// servers, HTTP/2, the worker and prefork MPMs, MCPProxyAsync Off, many clients on few threads.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Agent, fetch as anyFetch } from 'undici';
import { call, connect1, connect2, connectSse, textOf } from './lib/clients.mjs';
import { makeCertificate, startGateway, stock } from './lib/gateway.mjs';
import { ownerOf, soon, startServers, until } from './lib/servers.mjs';

const kinds = ['sessions', 'legacy', 'stateless'];
const names = ['a', 'b', 'c'];

// Three servers of each kind: { sessions, legacy, stateless }.
async function startAll(settings = {}) {
    const all = await Promise.all(kinds.map(kind =>
        startServers(names, kind, { resumable: true, retry: 20, ...settings })));
    return Object.fromEntries(kinds.map((kind, i) => [kind, all[i]]));
}

const stopAll = servers =>
    Promise.all(Object.values(servers ?? {}).flat().map(server => server.stop()));

let plain;
before(async () => {
    plain = await startAll();
});
after(() => stopAll(plain));

function startVariant(servers, setup) {
    const places = {
        sessions: [{ path: '/sessions', to: 'balancer://sessions/mcp' }],
        legacy: [{ path: '/legacy/', to: 'balancer://legacy/' }],
        stateless: [{ path: '/stateless', to: 'balancer://stateless/mcp' }],
    };
    return startGateway({
        balancers: kinds.map(name => ({ name, servers: servers[name] })),
        locations: kinds.flatMap(name => places[name]), ...setup,
    });
}

// Progress in lock-step, a request from server to client, and a standing stream: what breaks
// first where a connection is served differently.
async function talkWithSession(servers, gateway, fetch) {
    const client = await connect1(gateway.url('/sessions'), { fetch });
    const id = client.transport.sessionId;
    const owner = await ownerOf(servers.sessions, id);
    await until(async () => (await owner.seen()).some(entry => entry.method === 'GET' && entry.open
        && entry.headers['mcp-session-id'] === id), 'the standing stream');
    const onprogress = () => { call(client, 'step').catch(() => {}); };
    assert.equal(await call(client, 'steps', { count: 3 }, { onprogress }), '3 steps');
    assert.equal(await call(client, 'ask_model', { apart: true }), 'abacus: four');
    await call(client, 'announce', { text: 'news' });
    await until(() => client.heard.includes('news'), 'the announcement');
    assert.equal(await call(client, 'drop_call'), 'fetched later');
    assert.equal((await call(client, 'big', { bytes: 500000 })).length, 500000);
    await client.transport.terminateSession();
    await client.close();
    await until(async () => (await owner.seen()).every(entry => !entry.open
        || entry.headers['mcp-session-id'] !== id), 'the streams end at the server');
}

async function talkLegacy(servers, gateway, fetch) {
    const client = await connectSse(gateway.url('/legacy/sse'), { fetch });
    const onprogress = () => { call(client, 'step').catch(() => {}); };
    assert.equal(await call(client, 'steps', { count: 3 }, { onprogress }), '3 steps');
    assert.equal(await call(client, 'ask_user', { apart: true }), 'accept: Ada');
    const id = client.transport._endpoint.searchParams.get('sessionId');
    const owner = await ownerOf(servers.legacy, id);
    await client.close();
    await until(async () => !(await owner.tell('sessions')).some(each => each.id === id),
        'the server sees the client go');
}

async function talkStateless(servers, gateway, fetch) {
    const client = await connect2(gateway.url('/stateless'), undefined, { fetch });
    const heard = [];
    client.setNotificationHandler('notifications/tools/list_changed', () => { heard.push(1); });
    const subscription = await client.listen({ toolsListChanged: true });
    const tellAll = what => Promise.all(servers.stateless.map(server => server.tell(what)));
    await tellAll('toolsChanged');
    await until(() => heard.length === 1, 'the change');
    const result = await client.callTool({ name: 'steps', arguments: { count: 3 } },
        { onprogress: () => { tellAll('step'); } });
    assert.equal(textOf(result), '3 steps');
    await subscription.close();
    await client.close();
}

// settings: for servers of the variant's own, where it needs such.
function variant(name, setup, makeFetch = () => undefined, settings = undefined) {
    describe(name, { skip: stock }, () => {
        let servers;
        let gateway;
        let fetch;
        before(async () => {
            servers = settings ? await startAll(settings()) : undefined;
            gateway = await startVariant(servers ?? plain, setup);
            fetch = makeFetch();
        });
        after(async () => {
            // httpd gives a TLS connection that never sent a request its time, also when it stops.
            await fetch?.close();
            try {
                await gateway?.stop();
            } finally {
                await stopAll(servers);
            }
        });
        test('sessions', () => soon(talkWithSession(servers ?? plain, gateway, fetch), 'the conversation', 20000));
        test('HTTP+SSE', () => soon(talkLegacy(servers ?? plain, gateway, fetch), 'the conversation', 20000));
        test('stateless', () => soon(talkStateless(servers ?? plain, gateway, fetch), 'the conversation', 20000));
    });
}

// A fetch that takes the self-signed certificate, over HTTP/1.1 or HTTP/2.
function fetchOver(allowH2) {
    return () => {
        const dispatcher = new Agent({ allowH2, connect: { rejectUnauthorized: false } });
        const over = (url, init) => anyFetch(url, { ...init, dispatcher });
        return Object.assign(over, { close: () => dispatcher.destroy() });
    };
}

const certificates = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-certificates-'));
after(() => fs.rmSync(certificates, { recursive: true }));
const secureBackends = ['SSLProxyEngine On', 'SSLProxyVerify none', 'SSLProxyCheckPeerName Off',
    'SSLProxyCheckPeerCN Off'];

variant('plain', {});
variant('TLS', { tls: true }, fetchOver(false));
variant('HTTP/2 over TLS', { tls: true, directives: ['Protocols h2 http/1.1'] }, fetchOver(true));
variant('TLS to the servers', { modules: ['ssl'], directives: secureBackends }, undefined,
    () => ({ tls: makeCertificate(certificates) }));
variant('TLS on both sides', { tls: true, directives: secureBackends }, fetchOver(false),
    () => ({ tls: makeCertificate(certificates) }));
variant('MCPProxyAsync Off', { directives: ['MCPProxyAsync Off'], mpm: 'worker' });
variant('the worker MPM', { mpm: 'worker' });
variant('the prefork MPM', { mpm: 'prefork' });

// As a fresh Debian has it: these modules are on, and compression goes by the type of a response.
const debian = {
    modules: ['filter', 'deflate'],
    directives: ['AddOutputFilterByType DEFLATE text/html text/plain text/xml application/json'],
};

describe('sixty clients on a few threads, with what Debian has switched on', { skip: stock }, () => {
    let gateway;
    before(async () => {
        gateway = await startVariant(plain, debian);
    });
    after(() => gateway?.stop());
    test('each with a standing stream and a running call', async () => {
        const clients = await Promise.all([...Array(60).keys()]
            .map(() => connect1(gateway.url('/sessions'))));
        const running = clients.map(client => new Promise((resolve) => {
            client.callTool({ name: 'hang' }, undefined, { onprogress: resolve }).catch(() => {});
        }));
        await soon(Promise.all(running), 'every call runs');
        const answers = await soon(Promise.all(clients.map((client, i) =>
            call(client, 'echo', { text: `n${i}` }))), 'ordinary calls beside them');
        assert.deepEqual(answers, clients.map((_, i) => `n${i}`));
        await Promise.all(clients.map(client => client.close()));
    });
});
