// SPDX-License-Identifier: Apache-2.0
// Every configuration that ships passes "httpd -t": conf/mcp.conf, conf/examples/, each example of
// docs/directives.md, and the a2enmod files in the order in which Debian reads them.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { loadLines, makeCertificate, moduleFile, stock, syntax } from './lib/gateway.mjs';

const top = fileURLToPath(new URL('../../', import.meta.url));
const read = name => fs.readFileSync(path.join(top, name), 'utf8');
const names = ['mpm_event', 'authz_core', 'authz_host', 'unixd', 'log_config', 'alias', 'headers',
    'env', 'setenvif', 'reqtimeout', 'watchdog', 'proxy', 'proxy_http', 'proxy_balancer',
    'proxy_hcheck', 'slotmem_shm', 'socache_shmcb', 'ssl', 'http2'];

describe('configurations', { skip: stock }, () => {
    let work;
    let certificate;
    before(() => {
        work = fs.mkdtempSync(path.join(os.tmpdir(), 'mcp-conf-'));
        fs.mkdirSync(path.join(work, 'logs'));
        certificate = makeCertificate(work);
    });
    after(() => fs.rmSync(work, { recursive: true }));

    const frame = lines => [...lines, `ServerRoot "${work}"`, 'ServerName mcp.example.com',
        'Listen 127.0.0.1:8080', ''].join('\n');

    // What httpd says about the text, with all modules loaded that the examples use.
    function said(text) {
        const local = text
            .replaceAll('/etc/ssl/certs/ssl-cert-snakeoil.pem', certificate.cert)
            .replaceAll('/etc/ssl/certs/ca-certificates.crt', certificate.cert)
            .replaceAll('/etc/ssl/private/ssl-cert-snakeoil.key', certificate.key);
        const file = path.join(work, 'httpd.conf');
        const ours = ['mcp_proxy', 'mcp_ratelimit', 'mcp_cache'].map(name =>
            `LoadModule ${name}_module ${moduleFile.replaceAll('mcp_proxy', name)}`);
        fs.writeFileSync(file, frame([...loadLines(names), ...ours]) + local);
        return syntax(file);
    }

    for (const file of ['conf/mcp.conf',
        ...fs.readdirSync(path.join(top, 'conf/examples')).map(name => `conf/examples/${name}`)]) {
        test(`${file} passes`, () => assert.equal(said(read(file)), 'Syntax OK\n'));
    }

    test('conf/mcp.conf passes with each default written out', () => {
        const all = read('conf/mcp.conf').replace(/^( *)#(MCPProxy\w* )/gm, '$1$2');
        assert.notEqual(all, read('conf/mcp.conf'));
        assert.equal(said(all), 'Syntax OK\n');
    });

    test('conf/mcp.conf names each directive of the manual', () => {
        const named = read('docs/directives.md').match(/^## MCPProxy\w*/gm).map(line => line.slice(3));
        assert.ok(named.length > 10);
        // There is nothing to choose yet.
        const missing = named.filter(name => name !== 'MCPProxyAffinity'
            && !new RegExp(`^ *#?${name} `, 'm').test(read('conf/mcp.conf')));
        assert.deepEqual(missing, []);
    });

    const manual = read('docs/directives.md');
    for (const [, name, example] of manual.matchAll(/^## (\w+)[^]*?```apache\n([^]*?)```/gm))
        test(`the example of ${name} passes`, () => assert.equal(said(example), 'Syntax OK\n'));

    test('the a2enmod files pass as Debian reads them: *.load by name, then *.conf', () => {
        const enabled = path.join(work, 'mods-enabled');
        fs.mkdirSync(enabled);
        for (const name of ['authz_core', 'mpm_event', 'proxy', 'proxy_balancer', 'slotmem_shm'])
            fs.writeFileSync(path.join(enabled, `${name}.load`), loadLines([name]).join('\n'));
        fs.writeFileSync(path.join(enabled, 'mcp_proxy.load'), read('conf/mcp_proxy.load'));
        fs.writeFileSync(path.join(enabled, 'mcp_proxy.conf'), read('conf/mcp_proxy.conf')
            .replace('/usr/lib/apache2/modules/mod_mcp_proxy.so', moduleFile));
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
