// SPDX-License-Identifier: Apache-2.0
// Real clients of each generation under a rule that names the tools they may call: everything but
// a refused call is as if they talked to their server directly.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { call, connect1, connect2, connectSse } from './lib/clients.mjs';
import { startGateway, stock } from './lib/gateway.mjs';
import { ownerOf, soon, startServers, until } from './lib/servers.mjs';

const requestInit = {
    headers: { Authorization: `Basic ${Buffer.from('ada:engine').toString('base64')}` },
};
const eventSourceInit = {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, ...requestInit.headers } }),
};

describe('under a tool rule', { skip: stock }, () => {
    const work = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-users-'));
    fs.chmodSync(work, 0o755);
    const users = path.join(work, 'users');
    fs.writeFileSync(users, `ada:{SHA}${createHash('sha1').update('engine').digest('base64')}\n`);
    const directives = ['AuthType Basic', 'AuthName "tools"', `AuthUserFile "${users}"`,
        'Require mcp-tool echo announce'];
    const kinds = ['sessions', 'legacy', 'stateless'];
    let servers;
    let gateway;
    before(async () => {
        servers = Object.fromEntries(await Promise.all(kinds.map(async kind =>
            [kind, await startServers(['a', 'b'], kind, { resumable: true })])));
        gateway = await startGateway({
            modules: ['auth_basic', 'authn_core', 'authn_file'],
            balancers: kinds.map(name => ({ name, servers: servers[name] })),
            locations: [
                { path: '/sessions', to: 'balancer://sessions/mcp', directives },
                { path: '/legacy/', to: 'balancer://legacy/', directives },
                { path: '/stateless', to: 'balancer://stateless/mcp', directives },
            ],
        });
    });
    after(async () => {
        try {
            await gateway?.stop();
        } finally {
            await Promise.all(Object.values(servers ?? {}).flat().map(server => server.stop()));
            fs.rmSync(work, { recursive: true });
        }
    });

    // What httpd logs of a user whom it refuses.
    const refused = async (client, name) => {
        gateway.expect(/AH01631: user ada/);
        await assert.rejects(call(client, name), /403|is not allowed/);
    };

    test('a client with a session: handshake, standing stream, calls, end', () => soon((async () => {
        const client = await connect1(gateway.url('/sessions'), { requestInit });
        const id = client.transport.sessionId;
        const owner = await ownerOf(servers.sessions, id);
        await until(async () => (await owner.seen()).some(entry => entry.method === 'GET'
            && entry.open && entry.headers['mcp-session-id'] === id), 'the standing stream');
        assert.ok((await client.listTools()).tools.length > 3);
        assert.equal(await call(client, 'echo', { text: 'hello' }), 'hello');
        await refused(client, 'fail');
        await call(client, 'announce', { text: 'news' });
        await until(() => client.heard.includes('news'), 'the announcement');
        await client.transport.terminateSession();
        await client.close();
        assert.equal(await ownerOf(servers.sessions, id), undefined);
    })(), 'the conversation'));

    test('an HTTP+SSE client', () => soon((async () => {
        const client = await connectSse(gateway.url('/legacy/sse'), { requestInit, eventSourceInit });
        assert.equal(await call(client, 'echo', { text: 'hello' }), 'hello');
        await refused(client, 'fail');
        assert.equal(await call(client, 'echo', { text: 'again' }), 'again');
        await client.close();
    })(), 'the conversation'));

    test('a stateless client', () => soon((async () => {
        const client = await connect2(gateway.url('/stateless'), undefined, { requestInit });
        assert.equal(await call(client, 'echo', { text: 'hello' }), 'hello');
        await refused(client, 'fail');
        await client.close();
    })(), 'the conversation'));

    test('a client that has not logged in is told to', async () => {
        await assert.rejects(connect1(gateway.url('/sessions')), /401|Unauthorized/);
    });
});
