// SPDX-License-Identifier: Apache-2.0
// What the real servers here share: listening on a free loopback port, and keeping a record of
// each exchange (what came in, the exact bytes that went out, whether the client left early), so
// that a test can ask the server what it saw. The record is read at /_test/state, which no
// gateway in these tests forwards.
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';

const KEEP = 2000;
const records = [];
let nextRecord = 1;

function bytesOf(chunk, encoding) {
    if (chunk === undefined || chunk === null || typeof chunk === 'function')
        return Buffer.alloc(0);
    return typeof chunk === 'string'
        ? Buffer.from(chunk, typeof encoding === 'string' ? encoding : 'utf8')
        : Buffer.from(chunk);
}

// Notes the exchange and taps the response's write and end, which still do what they did.
function watch(req, res) {
    const entry = {
        n: nextRecord++, method: req.method, url: req.url, headers: req.headers,
        rawHeaders: req.rawHeaders, sent: [], open: true, left: false, status: () => res.statusCode,
    };
    records.push(entry);
    if (records.length > KEEP)
        records.shift();
    const { write, end } = res;
    res.write = function (chunk, ...rest) {
        entry.sent.push(bytesOf(chunk, rest[0]));
        return write.call(this, chunk, ...rest);
    };
    res.end = function (chunk, ...rest) {
        entry.sent.push(bytesOf(chunk, rest[0]));
        return end.call(this, chunk, ...rest);
    };
    res.on('close', () => {
        entry.open = false;
        entry.left = !res.writableFinished;
    });
}

function printable(entry) {
    return { ...entry, status: entry.status(), sent: Buffer.concat(entry.sent).toString('base64') };
}

export function readBody(req) {
    return new Promise((resolve, reject) => {
        const parts = [];
        req.on('data', part => parts.push(part));
        req.on('end', () => resolve(Buffer.concat(parts).toString('utf8')));
        req.on('error', reject);
    });
}

export function answerJson(res, status, value, headers = {}) {
    res.writeHead(status, { 'Content-Type': 'application/json', ...headers });
    res.end(JSON.stringify(value));
}

// options: the JSON object that the test gave on the command line.
export function options() {
    return JSON.parse(process.argv[2] ?? '{}');
}

// Serves with handle(req, res), over TLS if the option tls names { key, cert } files; control maps
// a name to a function that a test can call by POST /_test/NAME with a JSON argument. Says the
// port on stdout once it listens.
export function serve(handle, control = {}) {
    const { tls } = options();
    const listener = async (req, res) => {
        try {
            if (req.url === '/_test/state')
                return answerJson(res, 200, records.map(printable));
            if (req.url.startsWith('/_test/')) {
                const argument = JSON.parse((await readBody(req)) || '{}');
                const done = await control[req.url.slice('/_test/'.length)](argument);
                return answerJson(res, 200, done ?? {});
            }
            watch(req, res);
            return await handle(req, res);
        } catch (error) {
            console.error(error);
            if (!res.headersSent)
                answerJson(res, 500, { error: String(error) });
            return undefined;
        }
    };
    const server = tls
        ? https.createServer(
            { key: fs.readFileSync(tls.key), cert: fs.readFileSync(tls.cert) }, listener)
        : http.createServer(listener);
    server.requestTimeout = 0;
    server.listen(options().port ?? 0, '127.0.0.1', () => {
        process.stdout.write(`${JSON.stringify({ port: server.address().port })}\n`);
    });
    return server;
}
