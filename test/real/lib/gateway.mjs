// SPDX-License-Identifier: Apache-2.0
// An httpd with mod_mcp_proxy on a free loopback port: writes its configuration into a directory
// of its own, starts it in the foreground, ends it by process id, and treats its error log as an
// oracle: a line of level warn or above that the test did not announce fails the test.
//
// Environment: HTTPD (the binary), HTTPD_MODULES (its module directory), MCP_PROXY_SO (the module
// to test), MPM (event, worker, prefork), GATEWAY=stock (mod_proxy_http instead of our module, for
// comparing: then only tests that need one backend can pass).
import { execFileSync, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort, start, stop, until } from './servers.mjs';

const top = fileURLToPath(new URL('../../../', import.meta.url));
const firstFile = list => list.find(name => name && fs.existsSync(name));

const httpd = firstFile([process.env.HTTPD, '/usr/sbin/apache2', '/usr/sbin/httpd',
    '/usr/local/apache2/bin/httpd']);
const modules = firstFile([process.env.HTTPD_MODULES, '/usr/lib/apache2/modules',
    '/usr/lib64/httpd/modules', '/usr/local/apache2/modules']);
export const moduleFile = process.env.MCP_PROXY_SO
    ?? path.join(top, 'mod_mcp_proxy/.libs/mod_mcp_proxy.so');
const defaultMpm = process.env.MPM ?? 'event';
export const stock = process.env.GATEWAY === 'stock';

const basic = ['authz_core', 'authz_host', 'unixd', 'log_config', 'headers', 'env',
    'setenvif', 'proxy', 'proxy_http', 'proxy_balancer', 'lbmethod_byrequests', 'slotmem_shm',
    'socache_shmcb', 'ssl', 'http2', 'reqtimeout'];

// Modules that httpd has built in have no file.
export function loadLines(names) {
    return names.filter(name => fs.existsSync(path.join(modules, `mod_${name}.so`)))
        .map(name => `LoadModule ${name}_module ${modules}/mod_${name}.so`);
}

function loadModules(tls, more) {
    const secure = ['ssl', 'http2'];
    const lines = loadLines([...more, ...basic.filter(name => tls || !secure.includes(name))]);
    if (!stock)
        lines.push(`LoadModule mcp_proxy_module ${moduleFile}`);
    return lines;
}

function sizing(mpm) {
    if (mpm === 'prefork')
        return ['StartServers 8', 'MaxRequestWorkers 64', 'ServerLimit 96'];
    // Few threads where streams hold none, so that a stream that does hold one is noticed.
    const few = mpm === 'event' && !stock;
    const threads = few ? 8 : 64;
    return ['StartServers 2', 'ServerLimit 6', `ThreadsPerChild ${threads}`,
        `MaxRequestWorkers ${threads * 4}`, `MinSpareThreads ${few ? 4 : 32}`,
        `MaxSpareThreads ${threads * 2}`, ...(few ? ['AsyncRequestWorkerFactor 400'] : [])];
}

function balancer({ name, servers }) {
    const members = servers.map(server =>
        `    BalancerMember "${server.scheme ?? 'http'}://127.0.0.1:${server.port}" route=${server.name}`);
    return [`<Proxy "balancer://${name}">`, ...members,
        `    ProxySet lbmethod=${stock ? 'byrequests' : 'mcp'}`, '</Proxy>'];
}

function location({ path: from, to, directives = [] }) {
    return [`<Location "${from}">`, `    ProxyPass "${to}"`, ...(stock ? [] : ['    MCPProxy On']),
        ...directives.map(line => `    ${line}`), '</Location>'];
}

export function makeCertificate(directory) {
    const key = path.join(directory, 'key.pem');
    const cert = path.join(directory, 'cert.pem');
    execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt',
        'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=127.0.0.1',
        '-addext', 'subjectAltName=IP:127.0.0.1', '-addext', 'basicConstraints=critical,CA:FALSE',
        '-keyout', key, '-out', cert], { stdio: 'ignore' });
    return { key, cert };
}

function canConnect(port) {
    return new Promise((resolve) => {
        const socket = net.connect(port, '127.0.0.1');
        socket.once('connect', () => { socket.destroy(); resolve(true); });
        socket.once('error', () => resolve(false));
    });
}

class Gateway {
    constructor(setup) {
        this.setup = setup;
        this.allowed = [];
        this.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-real-'));
        fs.chmodSync(this.directory, 0o755);
        this.log = path.join(this.directory, 'error.log');
    }

    configuration() {
        const { balancers = [], locations = [], directives = [], tls, modules: more = [],
            mpm = defaultMpm } = this.setup;
        const root = process.getuid() === 0;
        const secure = tls ? makeCertificate(this.directory) : undefined;
        return [
            ...loadModules(tls, [`mpm_${mpm}`, ...more]), ...sizing(mpm),
            `ServerRoot "${this.directory}"`, `Listen 127.0.0.1:${this.port}`,
            `PidFile "${this.directory}/httpd.pid"`, `ErrorLog "${this.log}"`,
            `CustomLog "${this.directory}/access.log" "%h %s %B %X \\"%r\\""`,
            `ServerName ${tls ? 'https' : 'http'}://127.0.0.1:${this.port}`,
            `Mutex "file:${this.directory}"`, `DefaultRuntimeDir "${this.directory}"`,
            'LogLevel warn', 'ProxyRequests Off', 'KeepAliveTimeout 30',
            ...(root ? ['User www-data', 'Group www-data'] : []),
            ...(secure || more.includes('ssl') ? ['SSLSessionCache shmcb:ssl(512000)'] : []),
            ...(secure ? ['SSLEngine On', `SSLCertificateFile "${secure.cert}"`,
                `SSLCertificateKeyFile "${secure.key}"`] : []),
            ...balancers.flatMap(balancer), ...locations.flatMap(location), ...directives, '',
        ].join('\n');
    }

    async start() {
        this.port ??= await freePort();
        const conf = path.join(this.directory, 'httpd.conf');
        fs.writeFileSync(conf, this.configuration());
        // In a process group of its own: the prefork MPM ends by a signal to its whole group.
        this.child = start(httpd, ['-f', conf, '-DFOREGROUND'],
            { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
        this.stderr = '';
        this.child.stderr.on('data', (part) => { this.stderr += part; });
        await until(async () => {
            if (this.child.exitCode !== null)
                throw new Error(`httpd did not start: ${this.stderr}\n${this.errorLog()}`);
            return canConnect(this.port);
        }, 'httpd listens');
        return this;
    }

    // Restarts by a signal; returns when httpd has read its configuration again, while old children
    // of a graceful restart may still be there.
    async reload(signal) {
        const count = () => this.errorLog().split('resuming normal operations').length;
        const before = count();
        if (signal === 'SIGHUP')
            await this.rests();
        this.child.kill(signal);
        await until(() => count() > before, 'the restart');
    }

    // No thread of a child runs or is about to. httpd crashes now and then if it is told to end at
    // once while a worker is about to be done with a connection that was closed.
    async rests() {
        const tasks = pid => fs.readdirSync(`/proc/${pid}/task`)
            .map(task => `/proc/${pid}/task/${task}/stat`);
        const sleeps = (pid) => {
            try {
                return tasks(pid).every(file => !/\) [RD] /.test(fs.readFileSync(file, 'utf8')));
            } catch {
                return false;
            }
        };
        // One look takes a moment, in which a thread may wake another one.
        await until(() => [1, 2].every(() => this.children().filter(Boolean).every(sleeps)),
            'httpd rests');
    }

    // Stop and start: nothing in memory is left.
    async restart() {
        await this.rests();
        await stop(this.child);
        return this.start();
    }

    url(where) {
        return new URL(where, `${this.setup.tls ? 'https' : 'http'}://127.0.0.1:${this.port}`);
    }

    errorLog() {
        return fs.existsSync(this.log) ? fs.readFileSync(this.log, 'utf8') : '';
    }

    // Announces lines of the error log that this test provokes from now on.
    expect(...patterns) {
        const from = this.errorLog().split('\n').length - 1;
        this.allowed.push(...patterns.map(pattern => ({ pattern, from })));
    }

    children() {
        const { pid } = this.child;
        return fs.readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number);
    }

    // A graceful restart; returns when the old children are gone.
    async graceful() {
        const old = this.children();
        this.child.kill('SIGUSR1');
        await until(() => !this.children().some(pid => old.includes(pid)), 'the old children go');
    }

    // kill -9 for each child, the next one when httpd has replaced the last.
    async killAll() {
        this.expect(/AH00484/);
        for (const pid of this.children()) {
            const count = this.children().length;
            process.kill(pid, 'SIGKILL');
            await until(() => !this.children().includes(pid) && this.children().length >= count,
                'httpd replaces a killed child');
        }
    }

    // AH10392 only says that children were killed in a row, which each crash tells of too.
    unannounced() {
        const isAllowed = (line, index) => this.allowed
            .some(({ pattern, from }) => index >= from && pattern.test(line));
        return this.errorLog().split('\n').filter((line, index) =>
            !/AH10392/.test(line) && (/\[[a-z0-9_]*:(warn|error|crit|alert|emerg)\]/.test(line)
                || /exit signal|AddressSanitizer|runtime error/.test(line))
            && !isAllowed(line, index));
    }

    async stop() {
        try {
            if (this.child.exitCode === null && this.child.signalCode === null)
                await this.rests();
        } finally {
            await stop(this.child);
        }
        const lines = this.unannounced();
        if (lines.length > 0)
            throw new Error(`unannounced in the error log (${this.log}):\n${lines.join('\n')}`);
        fs.rmSync(this.directory, { recursive: true });
    }
}

// setup: balancers [{ name, servers }], locations [{ path, to, directives }], directives, tls,
// modules (names of more modules to load), mpm; none must be there.
export function startGateway(setup) {
    return new Gateway(setup).start();
}

// What httpd says about a configuration file: "Syntax OK" or what is wrong.
export function syntax(file) {
    const { stdout, stderr } = spawnSync(httpd, ['-t', '-f', file], { encoding: 'utf8' });
    return stdout + stderr;
}
