# SPDX-License-Identifier: Apache-2.0
"""A self-signed certificate for 127.0.0.1 and localhost, made once a run by openssl."""
import pathlib
import ssl
import subprocess

_dir = None


def set_dir(path):
    global _dir
    _dir = pathlib.Path(path)


def files():
    """(certificate, key) as paths."""
    cert, key = _dir / "cert.pem", _dir / "key.pem"
    if not cert.exists():
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-keyout",
                str(key),
                "-out",
                str(cert),
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1",
            ],
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
        )
    return cert, key


def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, files()))
    return context


def client_context(alpn=()):
    context = ssl.create_default_context(cafile=str(files()[0]))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context
