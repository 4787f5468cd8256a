# The dialect is declared once, here.
AC_DEFUN([AX_MCP_GNU11], [
  AC_MSG_CHECKING([for -std=gnu11])
  mcp_saved_CFLAGS=$CFLAGS
  CFLAGS="$CFLAGS -std=gnu11"
  AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])], [AC_MSG_RESULT([yes])],
    [AC_MSG_RESULT([no])
     CFLAGS=$mcp_saved_CFLAGS])
])

# What a compiler may do with a function that no other object replaces: a module exports one symbol,
# but code for shared objects is compiled as if any function could be replaced when it is loaded.
AC_DEFUN([AX_MCP_NO_INTERPOSITION], [
  AC_MSG_CHECKING([for -fno-semantic-interposition])
  mcp_saved_CFLAGS=$CFLAGS
  CFLAGS="$CFLAGS -fno-semantic-interposition"
  AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])], [AC_MSG_RESULT([yes])],
    [AC_MSG_RESULT([no])
     CFLAGS=$mcp_saved_CFLAGS])
])

# From apxs come the header folder and the module folder, nothing else: its CFLAGS are the
# distributor's, for the distributor's packages.
AC_DEFUN([AX_MCP_APXS], [
  AC_ARG_VAR([APXS], [httpd's extension tool])
  AC_ARG_WITH([apxs], [AS_HELP_STRING([--with-apxs=FILE], [httpd's apxs])],
    [APXS=$withval])
  AC_PATH_PROGS([APXS], [apxs apxs2], [], [$PATH:/usr/sbin:/usr/local/apache2/bin])
  AS_IF([test -z "$APXS" || test ! -x "$APXS"],
    [AC_MSG_ERROR([apxs not found; install httpd's development package (Debian: apache2-dev) or use --with-apxs])])
  HTTPD_CPPFLAGS="-isystem `$APXS -q INCLUDEDIR`"
  AC_SUBST([HTTPD_CPPFLAGS])
  AC_ARG_WITH([moduledir],
    [AS_HELP_STRING([--with-moduledir=DIR], [where modules go (default: what apxs says)])],
    [moduledir=$withval], [moduledir=`$APXS -q LIBEXECDIR`])
  AC_SUBST([moduledir])
  AX_MCP_MOD_PROXY([`$APXS -q LIBEXECDIR`])
  HTTPD=`$APXS -q SBINDIR`/`$APXS -q PROGNAME`
  AC_SUBST([HTTPD])
])

# mod_mcp_proxy uses functions of mod_proxy. Linked to it, it may be loaded ahead of it, which is
# what happens where files are read by name, as Debian does. Not where mod_proxy is built in.
AC_DEFUN([AX_MCP_MOD_PROXY], [
  AC_MSG_CHECKING([for mod_proxy.so])
  AS_IF([test -f "$1/mod_proxy.so"],
    [MOD_PROXY_LIBS="-L$1 -Wl,-rpath,$1 -l:mod_proxy.so"
     AC_MSG_RESULT([$1])],
    [AC_MSG_RESULT([no, it is built in])])
  AC_SUBST([MOD_PROXY_LIBS])
])

AC_DEFUN([AX_MCP_SANITIZER], [
  AC_ARG_ENABLE([$1], [AS_HELP_STRING([--enable-$1], [build with the $2 sanitizer])])
  AS_IF([test "$enable_$1" = yes],
    [DEV_CFLAGS="$DEV_CFLAGS -fsanitize=$2 -fno-omit-frame-pointer -fno-sanitize-recover=$2"
     DEV_LDFLAGS="$DEV_LDFLAGS -fsanitize=$2"])
])

# Sanitizers and warnings: for developers, never in a shipped build.
AC_DEFUN([AX_MCP_DEVELOPER], [
  AC_ARG_ENABLE([developer],
    [AS_HELP_STRING([--enable-developer], [strict warnings, which are errors])])
  # Not asked for: -Wunused-parameter, since hook signatures are httpd's, and clang's
  # -Wnull-pointer-subtraction, since APR's rings do it.
  AS_IF([test "$enable_developer" = yes],
    [DEV_CFLAGS="-Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings -Wpointer-arith -Wvla -Wformat=2 -Wimplicit-fallthrough -Wno-unused-parameter -Wno-null-pointer-subtraction"])
  AX_MCP_SANITIZER([asan], [address])
  AX_MCP_SANITIZER([ubsan], [undefined])
  AX_MCP_SANITIZER([tsan], [thread])
  AC_ARG_ENABLE([coverage], [AS_HELP_STRING([--enable-coverage], [build with gcov])])
  AS_IF([test "$enable_coverage" = yes],
    [DEV_CFLAGS="$DEV_CFLAGS -O0 --coverage"
     DEV_LDFLAGS="$DEV_LDFLAGS --coverage"])
  AC_SUBST([DEV_CFLAGS])
  AC_SUBST([DEV_LDFLAGS])
])
