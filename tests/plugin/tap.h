/*
 * The Test Anything Protocol, as far as the C tests here need it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef TAP_H
#define TAP_H

#include <stdbool.h>
#include <stdio.h>

static int tap_number, tap_failed;

static inline void tap_ok(bool passed, const char *what)
{
    printf("%sok %d - %s\n", passed ? "" : "not ", ++tap_number, what);
    tap_failed += !passed;
}

/* Exit status of the program. */
static inline int tap_done(void)
{
    printf("1..%d\n", tap_number);
    return tap_failed != 0;
}

#endif
