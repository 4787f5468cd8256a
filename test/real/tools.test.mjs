// SPDX-License-Identifier: Apache-2.0
// Independent software: the reference server behind the gateway, asked by the inspector's command
// line and by an SDK client; the conformance suite with each generation of servers. What they say
// directly is what they must say through the gateway.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { compare } from './lib/both.mjs';
import { connect1, textOf } from './lib/clients.mjs';
import { startGateway, stock } from './lib/gateway.mjs';
import { soon } from './lib/servers.mjs';
import { conformance, inspector, node22, startEverything } from './lib/tools.mjs';

const place = [{ path: '/mcp', to: 'balancer://mcp/mcp' }];
const old = node22 === undefined ? 'needs Node 22' : false;

describe('three reference servers', () => {
    let gateway;
    let servers;
    before(async () => {
        servers = await Promise.all((stock ? ['a'] : ['a', 'b', 'c']).map(startEverything));
        gateway = await startGateway({ balancers: [{ name: 'mcp', servers }], locations: place });
    });
    after(async () => {
        try {
            await gateway?.stop();
        } finally {
            await Promise.all((servers ?? []).map(server => server.stop()));
        }
    });

    const commands = {
        'tools/list': ['--method', 'tools/list'],
        'tools/call': ['--method', 'tools/call', '--tool-name', 'echo', '--tool-arg', 'message=hello'],
        'resources/list': ['--method', 'resources/list'],
        'prompts/list': ['--method', 'prompts/list'],
    };
    for (const [name, args] of Object.entries(commands)) {
        test(`the inspector's ${name}`, { skip: old }, async () => {
            const expected = await inspector(servers[0].url('/mcp'), args);
            assert.equal(expected.code, 0, expected.stderr);
            const outcome = await inspector(gateway.url('/mcp'), args);
            assert.deepEqual(outcome, expected);
        });
    }

    test('a long operation reports its progress', async () => {
        const client = await connect1(gateway.url('/mcp'));
        const heard = [];
        const result = await soon(client.callTool({
            name: 'trigger-long-running-operation', arguments: { duration: 1, steps: 4 },
        }, undefined, { onprogress: ({ progress }) => heard.push(progress) }), 'the operation');
        assert.match(textOf(result), /completed/);
        assert.deepEqual(heard, [1, 2, 3, 4]);
        await client.close();
    });
});

// Runs the suite and answers what each check said.
async function suite(target, args) {
    const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-conformance-'));
    const { stderr } = await conformance(target.url('/mcp'), [...args, '-o', directory]);
    const checks = {};
    for (const file of fs.readdirSync(directory, { recursive: true }).sort()) {
        if (path.basename(file) !== 'checks.json')
            continue;
        const scenario = path.dirname(file).replace(/-\d{4}-\d\d-\d\dT.*$/, '');
        const list = JSON.parse(fs.readFileSync(path.join(directory, file), 'utf8'));
        checks[scenario] = list.map(({ id, status }) => `${id} ${status}`);
    }
    fs.rmSync(directory, { recursive: true });
    assert.ok(Object.keys(checks).length > 0, `the suite ran nothing: ${stderr}`);
    return checks;
}

// The gateway may be stricter than the server (it checks Origin, and answers before the server
// gets to see a bad header), so a check that the server fails may succeed through it.
const isWorse = (direct, through) => through !== direct
    && !(/ FAILURE$/.test(direct) && / SUCCESS$/.test(through));

for (const [kind, revision] of [['sessions', '2025-11-25'], ['stateless', '2026-07-28']]) {
    describe(`conformance, ${revision}`, { skip: old }, () => {
        const { direct, through } = compare({ kind, settings: { resumable: true }, place });
        test('no check says something else than directly', async () => {
            const args = ['--requirements', revision];
            const expected = await suite(direct(), args);
            const outcome = await suite(through(), args);
            assert.deepEqual(Object.keys(outcome), Object.keys(expected));
            const worse = Object.entries(expected).flatMap(([scenario, checks]) => checks
                .map((check, i) => [scenario, check, outcome[scenario][i]])
                .filter(([, check, other]) => isWorse(check, other)));
            assert.deepEqual(worse, []);
            const good = Object.values(outcome).flat().filter(check => / SUCCESS$/.test(check));
            assert.ok(good.length > 50, `only ${good.length} checks succeeded`);
        });
    });
}
