// SPDX-License-Identifier: Apache-2.0
// What gateways keep sessions with, beside their own memory: keys in a file, and a Redis.
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { start, stop, until } from './servers.mjs';

// Writes a file of one key. Answers the directive that names it.
export function keysIn(folder) {
    const file = path.join(folder, 'keys');
    fs.writeFileSync(file, `${randomBytes(32).toString('base64')}\n`, { mode: 0o600 });
    return `MCPProxySessionKey file:${file}`;
}

// A Redis of its own, with its socket in a folder that httpd's children may enter from now on.
export async function startRedis(folder) {
    const socket = path.join(folder, 'redis');
    fs.chmodSync(folder, 0o755);
    const child = start('redis-server', ['--port', '0', '--unixsocket', socket, '--unixsocketperm',
        '777', '--save', '', '--appendonly', 'no', '--dir', folder], { stdio: 'ignore' });
    await until(() => fs.existsSync(socket), 'redis-server listens');
    return {
        url: `redis+unix:${socket}?db=6`,
        kill: signal => child.kill(signal),
        stop: () => stop(child),
    };
}
