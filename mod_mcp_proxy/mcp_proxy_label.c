/* SPDX-License-Identifier: Apache-2.0 */
/* Two sorted tables, searched by halves: six comparisons a request. */
#include "mcp_proxy_label.h"

#include <stdlib.h>
#include <string.h>

static const char *const methods[] = {
    "DELETE", "GET", "batch", "completion/complete", "elicitation/create", "initialize",
    "logging/setLevel", "notifications/cancelled", "notifications/elicitation/complete",
    "notifications/initialized", "notifications/message", "notifications/progress",
    "notifications/prompts/list_changed", "notifications/resources/list_changed",
    "notifications/resources/updated", "notifications/roots/list_changed",
    "notifications/subscriptions/acknowledged", "notifications/tasks/status",
    "notifications/tools/list_changed", "other", "ping", "prompts/get", "prompts/list",
    "resources/list", "resources/read", "resources/subscribe", "resources/templates/list",
    "resources/unsubscribe", "response", "roots/list", "sampling/createMessage", "server/discover",
    "subscriptions/listen", "tasks/cancel", "tasks/get", "tasks/list", "tasks/result", "tools/call",
    "tools/list"
};

/* 499: the client left before there was a head to answer with. */
static const short statuses[] = {
    100, 101, 102, 103, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304,
    305, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415,
    416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504,
    505, 506, 507, 508, 510, 511
};

_Static_assert(sizeof(methods) / sizeof(*methods) == MCP_LABEL_METHODS, "see the header");
_Static_assert(sizeof(statuses) / sizeof(*statuses) == MCP_LABEL_STATUSES, "see the header");

static int compare_methods(const void *key, const void *element)
{
    return strcmp(key, *(const char *const *)element);
}

static int compare_statuses(const void *key, const void *element)
{
    return *(const short *)key - *(const short *)element;
}

static int find_method(const char *method)
{
    const char *const *found = bsearch(method, methods, MCP_LABEL_METHODS, sizeof(*methods),
                                       compare_methods);

    return found ? (int)(found - methods) : -1;
}

static int find_status(int status)
{
    short key = (short)status;
    const short *found = bsearch(&key, statuses, MCP_LABEL_STATUSES, sizeof(*statuses),
                                 compare_statuses);

    return found ? (int)(found - statuses) : -1;
}

/* A method that is called like one of the words is none of the specification's. */
static int is_specified(const char *method)
{
    return strchr(method, '/') || strcmp(method, "initialize") == 0 || strcmp(method, "ping") == 0;
}

int mcp_label_of_method(const char *method)
{
    int label = method && is_specified(method) ? find_method(method) : -1;

    return label >= 0 ? label : find_method("other");
}

int mcp_label_of_word(const char *word)
{
    return find_method(word);
}

const char *mcp_label_method(int label)
{
    return methods[label];
}

int mcp_label_of_status(int status)
{
    int label;

    if (status < 100 || status > 599) {
        return find_status(500);
    }
    label = find_status(status);
    return label >= 0 ? label : find_status(status - status % 100);
}

int mcp_label_status(int label)
{
    return statuses[label];
}
