/*
 * What guest CPUs see of restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_CPU_VIEW_H
#define HW_RESTRICTED_MEMORY_QEMU_CPU_VIEW_H

#include "hw/restricted-memory/qemu/backend.h"

/* Where the two views of RAM are in the CPU root: above any guest address. */
#define RESTRICTED_PRIVATE_VIEW (UINT64_C(1) << 60)
#define RESTRICTED_SHARED_VIEW  (UINT64_C(1) << 61)

void restricted_cpu_view_init(RestrictedMemory *rm);
void restricted_cpu_view_machine_done(RestrictedMemory *rm);

/*
 * A guest CPU touches a page. Returns the state that it then has: pending only
 * if the guest has to accept it first.
 */
RmemState restricted_cpu_touch(RestrictedMemory *rm, uint64_t page);
/* Journal a guest touch of @gpa that @state forbids. */
void restricted_guest_fault(RestrictedMemory *rm, const RestrictedFill *fill,
                            hwaddr gpa, RmemState state);

/* Leave the guest, and then execute the same instruction again. */
G_NORETURN void restricted_fill_again(const RestrictedFill *fill);
/*
 * Pause the VM because of an access to @gpa, unless another reason was given;
 * the CPU tries the access again when the VM continues.
 */
G_NORETURN void restricted_fill_stop(const RestrictedFill *fill, hwaddr gpa);
/*
 * Is it an access of the CPU itself, to deliver an exception or an interrupt?
 * An exception raised for it would never be handled.
 */
bool restricted_fill_is_delivery(const RestrictedFill *fill);

/* The guest instruction behind a device access, 0 if it is unknown. */
uint64_t restricted_access_pc(const RestrictedMemory *rm);

#endif
