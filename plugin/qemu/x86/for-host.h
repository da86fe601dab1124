/*
 * x86: instructions that the host executes on the guest's behalf.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_X86_FOR_HOST_H
#define HW_RESTRICTED_MEMORY_QEMU_X86_FOR_HOST_H

#include "cpu.h"

/*
 * Call @run, which executes an instruction by QEMU's helpers. The instruction
 * does not trap again, and the guest's registers are restored afterwards.
 * False: it would have raised an exception, which the guest does not get, and
 * @run was left at that point. It may not hold a lock there.
 */
bool restricted_run_for_host(CPUX86State *env, void (*run)(void *opaque),
                             void *opaque);

/* Is this thread within restricted_run_for_host()? */
bool restricted_runs_for_host(void);

/* Leave @run: its instruction raises an exception. */
G_NORETURN void restricted_fault_for_host(void);

#endif
