// SPDX-License-Identifier: Apache-2.0
// The session generation (SDK 1.x clients and servers), directly and through the gateway.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compare } from './lib/both.mjs';
import { call, connect1 } from './lib/clients.mjs';
import { stock } from './lib/gateway.mjs';
import { ownerOf, soon, until } from './lib/servers.mjs';

const place = [{ path: '/mcp', to: 'balancer://mcp/mcp' }];
const { both, through, world } = compare({
    kind: 'sessions', settings: { resumable: true, retry: 20 }, place,
});

const sessionOf = client => client.transport.sessionId;

// The standing stream is opened behind the application's back: wait until the server has it.
function standing(target, client) {
    return until(async () => {
        const lists = await Promise.all(target.servers.map(server => server.seen()));
        return lists.flat().find(entry => entry.method === 'GET' && entry.open
            && entry.headers['mcp-session-id'] === sessionOf(client));
    }, 'the standing stream reaches the server');
}

async function withClient(target, use) {
    const client = await connect1(target.url('/mcp'));
    try {
        return await soon(use(client), 'the scenario');
    } finally {
        await client.close();
    }
}

both('initialize, lists, resources, prompts and a call', target => withClient(target,
    async client => ({
        capabilities: client.getServerCapabilities(),
        tools: await client.listTools(),
        resources: await client.listResources(),
        read: await client.readResource({ uri: 'test://readme' }),
        prompt: await client.getPrompt({ name: 'greet', arguments: { name: 'Ada' } }),
        echo: await call(client, 'echo', { text: 'ÄÖÜ \u2028 "quoted" \\ 世界' }),
        failed: await client.callTool({ name: 'fail' }),
        hasSession: sessionOf(client) !== undefined,
    })));

both('an unknown method and an unknown tool are the server\'s own errors', target => withClient(target,
    async (client) => {
        const unknown = await client.request({ method: 'no/such' }, { parse: x => x })
            .catch(error => ({ code: error.code, message: error.message }));
        return { unknown, tool: await client.callTool({ name: 'no_such_tool' }) };
    }));

both('progress arrives while the tool is still running', target => withClient(target,
    async (client) => {
        const heard = [];
        // Each report is answered by a call that lets the tool go on: a report that is held back
        // makes this wait until the deadline.
        const onprogress = ({ progress, total }) => {
            heard.push(`${progress}/${total}`);
            call(client, 'step').catch(() => {});
        };
        const result = await call(client, 'steps', { count: 5 }, { onprogress });
        return { heard, result };
    }));

both('a result of a megabyte comes whole', target => withClient(target,
    async (client) => {
        const result = await call(client, 'big', { bytes: 1 << 20 });
        assert.equal(result, 'x'.repeat(1 << 20));
        return result.length;
    }));

both('fifty calls at once on one session', target => withClient(target, async (client) => {
    const calls = [...Array(50).keys()].map(i => call(client, 'echo', { text: `n${i}` }));
    return Promise.all(calls);
}));

both('what the server announces arrives on the standing stream', target => withClient(target,
    async (client) => {
        await standing(target, client);
        for (const text of ['one', 'two', 'three'])
            await call(client, 'announce', { text });
        await until(() => client.heard.length >= 3, 'three announcements');
        return client.heard;
    }));

for (const tool of ['ask_model', 'ask_user', 'ask_roots']) {
    both(`${tool}: the client answers on the stream of the call`, target => withClient(target,
        client => call(client, tool, { apart: false })));
    both(`${tool}: the client answers on the standing stream`, target => withClient(target,
        async (client) => {
            await standing(target, client);
            return call(client, tool, { apart: true });
        }));
}

both('a call whose stream broke off is fetched with Last-Event-ID', target => withClient(target,
    async (client) => {
        const result = await call(client, 'drop_call');
        const owner = await ownerOf(target.servers, sessionOf(client));
        const resumed = (await owner.seen()).filter(entry => entry.headers['last-event-id']
            && entry.headers['mcp-session-id'] === sessionOf(client));
        return { result, resumed: resumed.length > 0 };
    }));

both('a standing stream that broke off goes on where it was', target => withClient(target,
    async (client) => {
        await standing(target, client);
        await call(client, 'announce', { text: 'before' });
        await until(() => client.heard.length === 1, 'the first announcement');
        await call(client, 'drop_standing', { text: 'after' });
        await until(() => client.heard.length >= 3, 'announcements after the break');
        return client.heard;
    }));

both('a new client takes a running call over with its resumption token', async (target) => {
    const first = await connect1(target.url('/mcp'));
    const sessionId = sessionOf(first);
    let resumptionToken;
    const started = new Promise((resolve) => {
        call(first, 'steps', { count: 2 }, {
            onprogress: resolve, onresumptiontoken: (token) => { resumptionToken = token; },
        }).catch(() => {});
    });
    await soon(started, 'the first report');
    const { protocolVersion } = first.transport;
    const owner = await ownerOf(target.servers, sessionId);
    await first.close();
    await until(async () => (await owner.seen()).every(entry => !entry.open
        || entry.headers['mcp-session-id'] !== sessionId), 'the server sees the first client go');
    const second = await connect1(target.url('/mcp'), { sessionId, protocolVersion });
    const result = call(second, 'steps', { count: 2 }, { resumptionToken });
    await owner.tell('step', { id: sessionId });
    await owner.tell('step', { id: sessionId });
    const outcome = await soon(result, 'the result of the call that the first client made');
    await second.close();
    return { outcome, token: resumptionToken !== undefined };
});

both('DELETE ends the session, and a new one can be opened', target => withClient(target,
    async (client) => {
        const id = sessionOf(client);
        await client.transport.terminateSession();
        const answer = await fetch(target.url('/mcp'), {
            method: 'POST', body: '{"jsonrpc":"2.0","id":5,"method":"tools/list"}',
            headers: {
                'Content-Type': 'application/json', 'Mcp-Session-Id': id,
                Accept: 'application/json, text/event-stream',
            },
        });
        const after = await withClient(target, next => call(next, 'echo', { text: 'new' }));
        return { status: answer.status, after, owner: await ownerOf(target.servers, id) };
    }));

both('a made-up session is 404 for every method', async (target) => {
    const statuses = [];
    for (const method of ['GET', 'POST', 'DELETE']) {
        const answer = await fetch(target.url('/mcp'), {
            method, headers: {
                'Mcp-Session-Id': 'made-up', 'Content-Type': 'application/json',
                Accept: 'application/json, text/event-stream',
            },
            body: method === 'POST' ? '{"jsonrpc":"2.0","id":1,"method":"ping"}' : undefined,
        });
        statuses.push([answer.status, (await answer.json()).error.code]);
    }
    return statuses;
});

both('cancelling a call tells the server', target => withClient(target, async (client) => {
    const control = new AbortController();
    const id = sessionOf(client);
    const calling = client.callTool({ name: 'hang' }, undefined,
        { signal: control.signal, onprogress: () => control.abort('enough') });
    await assert.rejects(calling, /enough/);
    const owner = await ownerOf(target.servers, id);
    const session = await until(async () => (await owner.tell('sessions'))
        .find(each => each.id === id && each.cancelled === 1), 'the server hears of it');
    return session.cancelled;
}));

both('a client that goes away closes its streams at the server', async (target) => {
    const client = await connect1(target.url('/mcp'));
    const id = sessionOf(client);
    await standing(target, client);
    const owner = await ownerOf(target.servers, id);
    const running = new Promise((resolve) => {
        client.callTool({ name: 'hang' }, undefined, { onprogress: resolve }).catch(() => {});
    });
    await soon(running, 'the call runs');
    await client.close();
    const of = async () => (await owner.seen()).filter(e => e.headers['mcp-session-id'] === id);
    await until(async () => (await of()).every(entry => !entry.open), 'both streams are closed');
    return (await of()).filter(entry => entry.left).map(entry => entry.method).sort();
});

test('each of many clients stays with the server that has its session', { skip: stock },
    async () => {
        const target = through();
        const clients = await Promise.all([...Array(24).keys()]
            .map(() => connect1(target.url('/mcp'))));
        const owners = await Promise.all(clients.map(async (client) => {
            const answers = await Promise.all([...Array(8).keys()]
                .map(() => call(client, 'whoami')));
            assert.equal(new Set(answers).size, 1);
            assert.equal(answers[0].split(' ')[1], sessionOf(client));
            return answers[0].split(' ')[0];
        }));
        const perServer = ['a', 'b', 'c'].map(name => owners.filter(o => o === name).length);
        assert.ok(perServer.every(count => count > 0), `unbalanced: ${perServer}`);
        await Promise.all(clients.map(client => client.close()));
    });

test('a session that its server forgot is 404, and the client starts anew', { skip: stock },
    async () => {
        const target = through();
        const client = await connect1(target.url('/mcp'));
        const owner = await ownerOf(target.servers, sessionOf(client));
        await owner.tell('forget', { id: sessionOf(client) });
        await assert.rejects(client.callTool({ name: 'whoami' }), error => error.code === 404);
        await client.close();
        assert.equal(await withClient(target, next => call(next, 'echo', { text: 'x' })), 'x');
    });

test('a session whose server died is 404, the others live on', { skip: stock }, async () => {
    const target = through();
    const clients = await Promise.all([...Array(9).keys()]
        .map(() => connect1(target.url('/mcp'))));
    const victim = await ownerOf(target.servers, sessionOf(clients[0]));
    const owners = await Promise.all(clients.map(c => ownerOf(target.servers, sessionOf(c))));
    world.gateway.expect(/mcp_proxy|proxy:error|proxy_balancer/);
    await victim.stop('SIGKILL');
    for (const [i, client] of clients.entries()) {
        if (owners[i] === victim)
            await assert.rejects(client.callTool({ name: 'whoami' }), error => error.code === 404);
        else
            assert.equal(await call(client, 'echo', { text: 'alive' }), 'alive');
    }
    assert.equal(await withClient(target, next => call(next, 'echo', { text: 'new' })), 'new');
    await Promise.all(clients.map(client => client.close()));
    await victim.start(victim.port);
});
