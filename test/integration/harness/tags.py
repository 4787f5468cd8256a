# SPDX-License-Identifier: Apache-2.0
"""The module's log tags by meaning, so that a test says what it expects and not a number."""
_ANY = r"MCP2\d\d\d"

CONNECT_FAILED = _ANY     # nobody listens, or no route
CONNECT_TIMEOUT = _ANY
TLS_FAILED = _ANY
BACKEND_GONE = _ANY       # closed or reset before its head
BACKEND_BROKE = _ANY      # closed or reset within the body
BAD_HEAD = _ANY
BAD_CHUNKS = _ANY
RESPONSE_TIMEOUT = _ANY
STREAM_TIMEOUT = _ANY
WRITE_TIMEOUT = _ANY
BODY_TIMEOUT = _ANY
ENDPOINT_FOREIGN = _ANY
CAPACITY = _ANY           # start-up: the MPM cannot hold the streams
RESTART_ROOM = _ANY       # start-up: ServerLimit
OPEN_FILES = _ANY         # start-up: ulimit -n
MEMBER_ERROR = _ANY       # a member was put in error
