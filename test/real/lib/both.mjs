// SPDX-License-Identifier: Apache-2.0
// Runs a scenario twice, once with the client talking to a server directly and once through the
// gateway in front of several, and demands the same outcome: "every client behaves as if it
// talked to its server directly".
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { startGateway, stock } from './gateway.mjs';
import { startServers } from './servers.mjs';

// kind, settings: the servers. place: how the gateway maps them, { path, to, directives }.
// setup: the rest of startGateway()'s. Answers { both(name, scenario), direct(), through(), world }: a
// scenario gets a target { via, url(path), servers } and returns what is compared; direct() and
// through() make one; world.gateway and world.servers are there once tests run.
export function compare({ kind, settings, place, setup = {} }) {
    const world = {};
    before(async () => {
        world.servers = await startServers(stock ? ['a'] : ['a', 'b', 'c'], kind, settings);
        world.gateway = await startGateway({
            balancers: [{ name: 'mcp', servers: world.servers }],
            locations: place, ...setup,
        });
    });
    after(async () => {
        try {
            await world.gateway?.stop();
        } finally {
            await Promise.all((world.servers ?? []).map(server => server.stop()));
        }
    });
    const direct = () => ({
        via: 'direct', servers: world.servers, url: path => world.servers[0].url(path),
    });
    const through = () => ({
        via: 'gateway', servers: world.servers, url: path => world.gateway.url(path),
    });
    function both(name, scenario) {
        test(name, async (t) => {
            const expected = await scenario(direct(), t);
            const outcome = await scenario(through(), t);
            assert.deepEqual(outcome, expected, 'not as if it talked to its server directly');
            assert.notEqual(outcome, undefined, 'a scenario returns what is to be compared');
        });
    }
    return { both, direct, through, world };
}
