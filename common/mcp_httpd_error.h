/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MCP_HTTPD_ERROR_H
#define MCP_HTTPD_ERROR_H

#include <httpd.h>

/*
 * Answers that the gateway makes itself: an HTTP status, and a JSON-RPC error with the request's
 * own id. They stand in for httpd's HTML page. All of it is for the thread that has the request.
 */

/**
 * Describe why the request is refused. The first description of a request stays; it counts if the
 * request is then answered with the same @a status.
 * @param code the JSON-RPC code; 0: -31000 - status
 * @param message static or from r->pool
 * @param data JSON text for error.data, or NULL
 * @return @a status, so that a hook can return it
 */
int mcp_error_set(request_rec *r, int status, int code, const char *message, const char *data);

/**
 * Send the answer: the one described, or a plain one for @a status. May be called in any phase of a
 * request whose head has not been sent; the headers in r->err_headers_out go with it. A body that
 * was not read closes the connection. On a worker: filters of any kind write it, and may block.
 * @return DONE, which a hook or a handler returns; r->status has the status
 */
int mcp_error_send(request_rec *r, int status);

/**
 * The response body that mcp_error_send() would send; "" for a notification and for a response of
 * the client's. From r->pool.
 */
const char *mcp_error_body(request_rec *r, int status);

#endif
