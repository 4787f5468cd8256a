/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RUN_SUITE_H
#define RUN_SUITE_H

/* What the main() of every test program ends with. */
#include <apr_general.h>
#include <check.h>
#include <stdlib.h>

/** Run all tests of @a suite. @return what main() returns */
static inline int run_suite(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    int failed;

    apr_initialize();
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    apr_terminate();
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
