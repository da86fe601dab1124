/*
 * x86: instructions that the host executes on the guest's behalf.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "hw/restricted-memory/qemu/x86/for-host.h"

/* Where to continue after a fault; a vCPU does not leave its thread. */
static __thread sigjmp_buf *for_host;

bool restricted_run_for_host(CPUX86State *env, void (*run)(void *opaque),
                             void *opaque)
{
    target_ulong saved[CPU_NB_REGS];
    sigjmp_buf here;
    bool done;

    memcpy(saved, env->regs, sizeof(saved));
    done = !sigsetjmp(here, 0);
    if (done) {
        for_host = &here;
        run(opaque);
    }
    for_host = NULL;
    memcpy(env->regs, saved, sizeof(saved));
    return done;
}

bool restricted_runs_for_host(void)
{
    return for_host;
}

void restricted_fault_for_host(void)
{
    siglongjmp(*for_host, 1);
}
