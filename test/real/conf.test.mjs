// SPDX-License-Identifier: Apache-2.0
// Every configuration that ships passes "httpd -t": conf/mcp.conf, conf/examples/, each example in
// docs/, and the a2enmod files in the order in which Debian reads them.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadLines, makeCertificate, moduleFile, stock, syntax } from './lib/gateway.mjs';

const top = fileURLToPath(new URL('../../', import.meta.url));
const read = name => fs.readFileSync(path.join(top, name), 'utf8');
const names = ['mpm_event', 'authn_core', 'authn_file', 'auth_basic', 'authz_core', 'authz_host',
    'authz_user', 'rewrite', 'unixd', 'log_config', 'alias', 'headers',
    'env', 'setenvif', 'reqtimeout', 'watchdog', 'auth_openidc', 'proxy', 'proxy_http', 'proxy_balancer',
    'proxy_hcheck', 'slotmem_shm', 'socache_shmcb', 'ssl', 'http2'];

describe('configurations', { skip: stock }, () => {
    let work;
    let certificate;
    before(() => {
        work = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-conf-'));
        fs.mkdirSync(path.join(work, 'logs'));
        certificate = makeCertificate(work);
        fs.writeFileSync(path.join(work, 'session.key'), `${randomBytes(32).toString('base64')}\n`,
            { mode: 0o600 });
    });
    after(() => fs.rmSync(work, { recursive: true }));

    // Sizes that hold the default of MCPProxyMaxStreams, or httpd -t warns.
    const sizes = ['MaxRequestWorkers 150', 'AsyncRequestWorkerFactor 400'];
    const frame = lines => [...lines, ...sizes, `ServerRoot "${work}"`, 'ServerName mcp.example.com',
        'Listen 127.0.0.1:8080', ''].join('\n');

    // An example is a fragment, which may well have no effect for itself.
    const saidOfFragment = text => said(text).replace(/^\[.*MCP(2076|3011|4011): .*\n/gm, '');

    // What httpd says about the text, with all modules loaded that the examples use.
    function said(text) {
        const local = text
            .replaceAll('/etc/ssl/certs/ssl-cert-snakeoil.pem', certificate.cert)
            .replaceAll('/etc/ssl/certs/ca-certificates.crt', certificate.cert)
            .replaceAll('/etc/ssl/private/ssl-cert-snakeoil.key', certificate.key)
            .replaceAll('/etc/apache2/mcp-session.key', path.join(work, 'session.key'));
        const file = path.join(work, 'httpd.conf');
        const ours = ['mcp_proxy', 'mcp_ratelimit', 'mcp_cache'].map(name =>
            `LoadModule ${name}_module ${moduleFile.replaceAll('mcp_proxy', name)}`);
        fs.writeFileSync(file, frame([...loadLines(names), ...ours]) + local);
        return syntax(file);
    }

    const examples = fs.readdirSync(path.join(top, 'conf/examples'))
        .filter(name => name.endsWith('.conf')).map(name => `conf/examples/${name}`);
    for (const file of ['conf/mcp.conf', ...examples]) {
        const foreign = /^OIDC/m.test(read(file)) && loadLines(['auth_openidc']).length === 0;
        test(`${file} passes`, { skip: foreign && 'needs libapache2-mod-auth-openidc' },
            () => assert.equal(said(read(file)), 'Syntax OK\n'));
    }

    test('conf/mcp.conf passes with each default written out', () => {
        const all = read('conf/mcp.conf').replace(/^( *)#(MCP\w+ )/gm, '$1$2');
        assert.notEqual(all, read('conf/mcp.conf'));
        assert.equal(saidOfFragment(all), 'Syntax OK\n');
    });

    test('conf/mcp.conf names each directive of the manual', () => {
        const named = read('docs/directives.md').match(/^## MCP\w*/gm).map(line => line.slice(3));
        assert.ok(named.length > 30);
        const missing = named.filter(name => !new RegExp(`^ *#?${name} `, 'm').test(read('conf/mcp.conf')));
        assert.deepEqual(missing, []);
    });

    const pages = fs.readdirSync(path.join(top, 'docs'), { recursive: true })
        .filter(name => name.endsWith('.md')).map(name => `docs/${name}`);
    for (const page of pages) {
        // The heading that an example stands under names it.
        const parts = read(page).split(/^#+ /m);
        for (const part of parts) {
            const examples = [...part.matchAll(/^```apache\n([^]*?)^```/gm)];
            for (const [i, [, example]] of examples.entries())
                test(`${page}, ${part.split('\n')[0]}, example ${i + 1} passes`,
                    () => assert.equal(saidOfFragment(example), 'Syntax OK\n'));
        }
    }

    test('the a2enmod files pass as Debian reads them: *.load by name, then *.conf', () => {
        const enabled = path.join(work, 'mods-enabled');
        fs.mkdirSync(enabled);
        for (const name of ['authz_core', 'mpm_event', 'proxy', 'proxy_balancer', 'slotmem_shm'])
            fs.writeFileSync(path.join(enabled, `${name}.load`), loadLines([name]).join('\n'));
        const ours = fs.readdirSync(path.join(top, 'conf')).filter(name => /^mcp_/.test(name));
        assert.equal(ours.length, 6);
        for (const name of ours)
            fs.writeFileSync(path.join(enabled, name), read(`conf/${name}`)
                .replace(/\/usr\/lib\/apache2\/modules\/mod_(mcp_\w+)\.so/,
                    (_, module) => moduleFile.replaceAll('mcp_proxy', module)));
        const file = path.join(work, 'apache2.conf');
        fs.writeFileSync(file, frame([]) + ['IncludeOptional mods-enabled/*.load',
            'IncludeOptional mods-enabled/*.conf', read('conf/examples/three-servers.conf')
                .replace(/ hc\w+=\w+/g, '')].join('\n'));
        assert.equal(syntax(file), 'Syntax OK\n');
    });

    test('a broken one fails', () => {
        assert.match(said('MCPProxyNoSuchThing On'), /MCPProxyNoSuchThing/);
        assert.match(said('MCPProxyHeartbeat soon'), /MCPProxyHeartbeat/);
    });
});
