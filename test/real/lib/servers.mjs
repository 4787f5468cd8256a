// SPDX-License-Identifier: Apache-2.0
// Starts the real servers as processes of their own, talks to their /_test control, and ends them
// by process id. Nothing here waits for a fixed time: until() polls a condition to a deadline.
import { spawn } from 'node:child_process';
import net from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Agent, fetch as fetchOver } from 'undici';

const DEADLINE_MS = 15000;
// The servers' certificates are their own.
const trusting = new Agent({ connect: { rejectUnauthorized: false } });
const here = path => fileURLToPath(new URL(path, import.meta.url));

export async function until(condition, what, deadline = DEADLINE_MS) {
    const end = Date.now() + deadline;
    for (;;) {
        const value = await condition();
        if (value)
            return value;
        if (Date.now() > end)
            throw new Error(`waited in vain: ${what}`);
        await new Promise(resolve => setTimeout(resolve, 10));
    }
}

// A promise that must be kept before the deadline: a hold-up fails the test and names itself.
export function soon(promise, what, deadline = DEADLINE_MS) {
    let timer;
    const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`waited in vain: ${what}`)), deadline);
    });
    return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function freePort() {
    return new Promise((resolve, reject) => {
        const probe = net.createServer();
        probe.on('error', reject);
        probe.listen(0, '127.0.0.1', () => {
            const { port } = probe.address();
            probe.close(() => resolve(port));
        });
    });
}

const running = new Set();

// Starts a program that ends with this process, whatever ends that.
export function start(program, args, options) {
    const child = spawn(program, args, options);
    running.add(child);
    child.once('exit', () => running.delete(child));
    return child;
}

process.once('exit', () => running.forEach(child => child.kill('SIGTERM')));
for (const [signal, number] of [['SIGTERM', 15], ['SIGINT', 2], ['SIGHUP', 1]])
    process.once(signal, () => process.exit(128 + number));

export async function stop(child, signal = 'SIGTERM') {
    if (child.exitCode !== null || child.signalCode !== null)
        return;
    const gone = new Promise(resolve => child.once('exit', resolve));
    child.kill(signal);
    await soon(gone, `end of process ${child.pid}`);
}

class RealServer {
    constructor(name, kind, settings) {
        this.name = name;
        this.kind = kind;
        this.settings = settings;
        this.scheme = settings.tls ? 'https' : 'http';
        this.stderr = '';
    }

    async start(port) {
        const settings = { ...this.settings, name: this.name, port };
        this.child = start(process.execPath, [here(`../servers/${this.kind}.mjs`),
            JSON.stringify(settings)], { stdio: ['ignore', 'pipe', 'pipe'] });
        this.child.stderr.on('data', (part) => { this.stderr += part; });
        const lines = createInterface({ input: this.child.stdout });
        const first = new Promise((resolve, reject) => {
            lines.once('line', resolve);
            this.child.once('exit', () => reject(new Error(`${this.kind}: ${this.stderr}`)));
        });
        this.port = JSON.parse(await soon(first, `start of ${this.kind}`)).port;
        return this;
    }

    url(path) {
        return new URL(path, `${this.scheme}://127.0.0.1:${this.port}`);
    }

    // Calls a control of the server (see serve() in recorder.mjs).
    async tell(what, argument = {}) {
        const answer = await fetchOver(this.url(`/_test/${what}`),
            { method: 'POST', body: JSON.stringify(argument), dispatcher: trusting });
        return answer.json();
    }

    // Every exchange that this server saw; sent is a Buffer of the exact body bytes.
    async seen() {
        const answer = await fetchOver(this.url('/_test/state'), { dispatcher: trusting });
        const list = await answer.json();
        return list.map(entry => ({ ...entry, sent: Buffer.from(entry.sent, 'base64') }));
    }

    stop(signal) {
        return stop(this.child, signal);
    }
}

// kind: a file in servers/ without its ending.
export function startServers(names, kind, settings = {}) {
    return Promise.all(names.map(name => new RealServer(name, kind, settings).start()));
}

// The server that has the session, and undefined while none has.
export async function ownerOf(servers, id) {
    for (const server of servers) {
        const sessions = await server.tell('sessions');
        if (sessions.some(session => session.id === id))
            return server;
    }
    return undefined;
}
