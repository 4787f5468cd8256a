# SPDX-License-Identifier: Apache-2.0
"""A TLS client that says which bytes go onto the wire when: parts of records, records without data.

Python's ssl module has no way to send the latter (a key update, TLS 1.3), so this is libssl itself.
"""
import ctypes
import ctypes.util

from .client import Connection

PENDING = 10  # BIO_CTRL_PENDING


def _library():
    lib = ctypes.CDLL(ctypes.util.find_library("ssl") or "libssl.so")
    for name in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem", "BIO_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    lib.BIO_ctrl.restype = ctypes.c_long
    return lib


class Records(Connection):
    """A connection of which nothing is sent but what send_raw() is told to."""

    is_client = True  # to be closed before its gateways are judged

    def __init__(self, gateway):
        super().__init__(gateway.address, host="localhost:%d" % gateway.port)
        self._lib = _library()
        self._context = ctypes.c_void_p(
            self._lib.SSL_CTX_new(ctypes.c_void_p(self._lib.TLS_client_method())))
        self._ssl = ctypes.c_void_p(self._lib.SSL_new(self._context))
        kind = ctypes.c_void_p(self._lib.BIO_s_mem())
        self._in, self._out = (ctypes.c_void_p(self._lib.BIO_new(kind)) for _ in range(2))
        self._lib.SSL_set_bio(self._ssl, self._in, self._out)
        while self._lib.SSL_connect(self._ssl) != 1:
            self.send_raw(self._taken())
            self._give(self.socket.recv(65536))
        self.send_raw(self._taken())

    def _taken(self):
        """What libssl wants to have sent."""
        data = ctypes.create_string_buffer(self._lib.BIO_ctrl(self._out, PENDING, 0, None) or 1)
        got = self._lib.BIO_read(self._out, data, len(data))
        return data.raw[:max(got, 0)]

    def _give(self, data):
        assert data, "the server closed the connection"
        self._lib.BIO_write(self._in, data, len(data))

    def record(self, data):
        """The record that carries data."""
        assert self._lib.SSL_write(self._ssl, data, len(data)) == len(data)
        return self._taken()

    def empty_record(self):
        """A key update: a record that is none of the application's."""
        assert self._lib.SSL_key_update(self._ssl, 0) == 1
        assert self._lib.SSL_do_handshake(self._ssl) == 1
        return self._taken()

    def send_raw(self, data):
        super().send(data)
        return self

    def send(self, data):
        return self.send_raw(self.record(data))

    def fill(self, deadline=None):
        """As a plain connection, with what libssl has decrypted in the buffer."""
        before, self.buffer = self.buffer, b""
        try:
            more = super().fill(deadline)
        finally:
            raw, self.buffer = self.buffer, before
        if raw:
            self._give(raw)
        plain = ctypes.create_string_buffer(16384)
        while (got := self._lib.SSL_read(self._ssl, plain, len(plain))) > 0:
            self.buffer += plain.raw[:got]
        return more

    def close(self):
        if self._ssl:
            self._lib.SSL_free(self._ssl)
            self._lib.SSL_CTX_free(self._context)
            self._ssl = None
        super().close()
