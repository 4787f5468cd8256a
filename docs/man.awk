# SPDX-License-Identifier: Apache-2.0
# The manual page of one module out of directives.md:
#   awk -v module=mod_mcp_proxy -v version=0.1.0 -f man.awk directives.md
# It knows the Markdown that is used there: headings, lists, tables, fences, commands (indented
# by four), `code`, **bold**, [links](#x).

function escaped(text) {
    gsub(/\\/, "\\e", text)
    gsub(/-/, "\\-", text)
    return text
}

function inline(text,    out, rest) {
    text = escaped(text)
    while (match(text, /`[^`]*`|\*\*[^*]*\*\*|\*[^* ][^*]*\*|\[[^]]*\]\([^)]*\)/)) {
        out = out substr(text, 1, RSTART - 1)
        rest = substr(text, RSTART, RLENGTH)
        text = substr(text, RSTART + RLENGTH)
        if (rest ~ /^`/)
            out = out "\\fB" substr(rest, 2, length(rest) - 2) "\\fR"
        else if (rest ~ /^\*\*/)
            out = out "\\fB" substr(rest, 3, length(rest) - 4) "\\fR"
        else if (rest ~ /^\*/)
            out = out "\\fI" substr(rest, 2, length(rest) - 2) "\\fR"
        else
            out = out substr(rest, 2, index(rest, "](") - 2)
    }
    return out text
}

# A line of text must not begin like a request.
function line(text) {
    text = inline(text)
    return (text ~ /^[.']/ ? "\\&" : "") text "\n"
}

function table_row(text,    cells, n, i, out) {
    n = split(text, cells, /[ ]*\|[ ]*/)
    for (i = 2; i < n; i++)
        out = out (i == 2 ? ".TP\n" inline(cells[i]) "\n" : inline(cells[i]) "\n")
    return out
}

# A paragraph may break its lines anywhere, also within what is emphasized.
function flush() {
    if (text_so_far != "")
        entry = entry line(text_so_far)
    text_so_far = ""
}

function add(words) {
    text_so_far = text_so_far (text_so_far == "" ? "" : " ") words
}

# An entry belongs to the page if its Module line says so.
function finish() {
    flush()
    if (mine)
        printf "%s", entry
    entry = ""
    mine = 0
}

BEGIN {
    about["mod_mcp_proxy"] = "Model Context Protocol through Apache httpd"
    about["mod_mcp_ratelimit"] = "limits for Model Context Protocol traffic in Apache httpd"
    about["mod_mcp_cache"] = "cached tool results for Model Context Protocol in Apache httpd"
    # The day does not matter, and would make each build differ.
    printf ".TH %s 8 \"\" \"mod\\-mcp %s\" \"Apache httpd modules\"\n", toupper(module), version
    printf ".SH NAME\n%s \\- %s\n", module, about[module]
    printf ".SH SYNOPSIS\n.nf\nLoadModule %s_module modules/%s.so\n.fi\n",
        substr(module, 5), module
    printf ".SH DESCRIPTION\n"
    printf "The directives of this module, for httpd's configuration.\n"
}

/^```/ {
    flush()
    fence = !fence
    entry = entry (fence ? ".PP\n.RS 4\n.nf\n" : ".fi\n.RE\n")
    next
}

fence {
    text = escaped($0)
    entry = entry (text ~ /^[.']/ ? "\\&" : "") text "\n"
    next
}

/^# / { mine = 1; next }

/^## / {
    finish()
    if (!headed++)
        print ".SH DIRECTIVES"
    entry = ".SS " inline(substr($0, 4)) "\n"
    next
}

/^- \*\*Module:\*\*/ { mine = index($0, module) > 0 || /all three/ }

# Before the first heading: how to read the page, apart from the lists of links.
!headed && /^(- |  )/ { next }

/^- / { flush(); entry = entry ".IP \\(bu 2\n"; add(substr($0, 3)); next }
# The names of a table's columns are of no use here.
/^\|/ { flush(); if (in_table++ > 1) entry = entry table_row($0); next }
{ in_table = 0 }
/^    / { flush(); entry = entry ".RS 4\n.nf\n" escaped(substr($0, 5)) "\n.fi\n.RE\n"; next }
/^$/ { flush(); entry = entry ".PP\n"; next }
{ sub(/^ +/, ""); add($0) }

END {
    finish()
    print ".SH SEE ALSO"
    print ".BR mod_mcp_proxy (8),"
    print ".BR mod_mcp_ratelimit (8),"
    print ".BR mod_mcp_cache (8),"
    print ".BR apache2 (8),"
    print ".BR httpd (8)"
}
