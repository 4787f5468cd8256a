# SPDX-License-Identifier: Apache-2.0
"""The module's log tags by meaning, so that a test says what it expects and not a number."""
BODY_TIMEOUT = "MCP2010"
BODY_TOO_LARGE = "MCP2011"
ORIGIN_REFUSED = "MCP2012"
TOOL_REFUSED = "MCP2013"
TIMEOUT = "MCP2040"  # the line says which one
WRITE_TIMEOUT = "MCP2041"
CONNECT_FAILED = "MCP2042"  # nobody listens, or no route
TLS_FAILED = "MCP2043"
BAD_HEAD = "MCP2044"
BACKEND_GONE = "MCP2045"  # closed or reset before its head was whole
BACKEND_BROKE = "MCP2046"  # closed or reset within the body
BAD_CHUNKS = "MCP2047"
ENDPOINT_FOREIGN = "MCP2050"
CAPACITY = "MCP2072"  # start-up: the MPM cannot hold the streams
MEMBER_LIMIT = "MCP2084"  # start-up: max= of a member
RESTART_ROOM = "MCP2073"  # start-up: ServerLimit
OPEN_FILES = "MCP2074"  # start-up: ulimit -n
CHANGE_REFUSED = "MCP2091"  # mcp-status: not allowed, or maybe from a foreign page
STREAM_ENDED = "MCP2092"  # mcp-status: somebody ended one
# mod_proxy's own: a member was put in error (failonstatus, failontimeout), none is left.
MEMBER_ERROR = "AH01170|AH01174|AH02460|AH01167"
