/*
 * RDMSR and WRMSR that the host runs for its guest, by a table.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_HOST_MSR_H
#define HW_RESTRICTED_MEMORY_PROFILES_HOST_MSR_H

#include "cpu.h"
#include "hw/restricted-memory/profiles/tables.h"

/* The row, of @n rows of @size bytes in order, whose range has @key, or NULL. */
const void *restricted_row(const void *rows, size_t n, size_t size,
                           uint32_t key);
#define RESTRICTED_ROW(rows, key) \
    restricted_row(rows, ARRAY_SIZE(rows), sizeof((rows)[0]), key)

#define RESTRICTED_STORED_MSRS 8

/* Values of `store` rows, in their order; all 0 at the launch. */
typedef struct RestrictedMsrs {
    uint64_t stored[RESTRICTED_STORED_MSRS];
} RestrictedMsrs;

/*
 * Read an MSR into @value, or write @value to it. False: the host refuses. The
 * guest's registers stay as they are. vCPU thread.
 */
bool restricted_host_msr(const TableHostMsr *rows, size_t n,
                         RestrictedMsrs *msrs, CPUX86State *env,
                         uint32_t index, bool write, uint64_t *value);

#endif
