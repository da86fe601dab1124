/*
 * RDMSR and WRMSR that the host runs for its guest, by a table.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The tables say what KVM answers: host-msr.toml of each technology.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "exec/helper-proto.h"
#include "hw/restricted-memory/profiles/host-msr.h"
#include "hw/restricted-memory/qemu/x86/for-host.h"

/* How the row of every such table begins. */
typedef struct RowRange {
    uint32_t first, last;
} RowRange;

const void *restricted_row(const void *rows, size_t n, size_t size,
                           uint32_t key)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const RowRange *row = rows + middle * size;

        if (key >= row->first && key <= row->last) {
            return row;
        }
        if (key < row->first) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return NULL;
}

typedef struct Access {
    CPUX86State *env;
    uint32_t index;
    bool write;
    uint64_t value;
} Access;

static void run(void *opaque)
{
    Access *access = opaque;
    CPUX86State *env = access->env;

    env->regs[R_ECX] = access->index;
    if (access->write) {
        env->regs[R_EAX] = (uint32_t)access->value;
        env->regs[R_EDX] = access->value >> 32;
        helper_wrmsr(env);
    } else {
        helper_rdmsr(env);
        access->value = deposit64(env->regs[R_EAX], 32, 32, env->regs[R_EDX]);
    }
}

static bool run_msr(CPUX86State *env, uint32_t index, bool write,
                    uint64_t *value)
{
    Access access = {
        .env = env, .index = index, .write = write, .value = *value,
    };

    if (!restricted_run_for_host(env, run, &access)) {
        return false;
    }
    *value = access.value;
    return true;
}

/* KVM, set_msr_mce(): all or no reports of a bank, and status is cleared. */
static bool is_mce_value(uint32_t index, uint64_t value)
{
    switch ((index - MSR_MC0_CTL) & 3) {
    case 0:
        return value == 0 || (value | 1 << 10) == UINT64_MAX;
    case 1:
        return value == 0;
    default:
        return true;
    }
}

/* The place of a `store` row among them */
static uint64_t *stored(const TableHostMsr *rows, const TableHostMsr *row,
                        RestrictedMsrs *msrs)
{
    size_t i = 0;

    for (; rows < row; rows++) {
        i += rows->read == TABLE_STORE;
    }
    g_assert(i < ARRAY_SIZE(msrs->stored));
    return &msrs->stored[i];
}

bool restricted_host_msr(const TableHostMsr *rows, size_t n,
                         RestrictedMsrs *msrs, CPUX86State *env,
                         uint32_t index, bool write, uint64_t *value)
{
    const TableHostMsr *row = restricted_row(rows, n, sizeof(rows[0]), index);

    if (!row || (write && *value & ~row->mask)) {
        return false;
    }
    switch (write ? row->write : row->read) {
    case TABLE_VALUE:
        *value = row->value;
        return true;
    case TABLE_IGNORE:
        return true;
    case TABLE_STORE:
        if (write) {
            *stored(rows, row, msrs) = *value;
        } else {
            *value = *stored(rows, row, msrs);
        }
        return true;
    case TABLE_TSC:
        *value = cpu_get_tsc(env) + env->tsc_offset;
        return true;
    case TABLE_MCE:
        if (!is_mce_value(index, *value)) {
            return false;
        }
        /* fall through */
    case TABLE_RUN:
    case TABLE_APIC:
        return run_msr(env, index, write, value);
    default:
        return false;
    }
}
