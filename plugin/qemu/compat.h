/*
 * What versions of QEMU call differently, for files of any target.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Our files are written for the newest version that is supported. They
 * include this header for headers that have moved since QEMU 10.0; below them
 * are the functions that 10.0 lacks, made of those that it has.
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_COMPAT_H
#define HW_RESTRICTED_MEMORY_QEMU_COMPAT_H

#define QEMU_IS_AT_LEAST(major, minor)                                      \
    (QEMU_VERSION_MAJOR > (major)                                           \
     || (QEMU_VERSION_MAJOR == (major) && QEMU_VERSION_MINOR >= (minor)))

#if QEMU_IS_AT_LEAST(11, 0)
#include "hw/core/boards.h"
#include "hw/core/qdev.h"
#include "qemu/aio.h"
#include "system/ramblock.h"
#else
#include "block/aio.h"
#include "exec/cpu-common.h"
#include "hw/boards.h"
#include "hw/qdev-core.h"
#endif

#if QEMU_IS_AT_LEAST(10, 1)
#include "exec/icount.h"
#include "system/address-spaces.h"
#include "system/memory.h"
#else
#include "exec/address-spaces.h"
#include "exec/memory.h"
#include "system/cpu-timers.h"
#endif

/* What exec/cpu-common.h declared before. */
#if __has_include("accel/tcg/cpu-loop.h")
#include "accel/tcg/cpu-loop.h"
#endif

#include "exec/target_page.h"
#include "exec/tb-flush.h"
#include "hw/core/cpu.h"
#include "migration/blocker.h"
#include "migration/vmstate.h"
#include "qapi/error.h"
#include "qom/object_interfaces.h"

/* The last parameter of class_init() points to it; flush all code. */
#if QEMU_IS_AT_LEAST(10, 1)
#define CompatClassData const void
#else
#define CompatClassData void
#define queue_tb_flush(cpu) tb_flush(cpu)
#endif

#if !QEMU_IS_AT_LEAST(11, 0)
#undef VMSTATE_UINT32_EQUAL
#undef VMSTATE_UINT64_EQUAL
#define VMSTATE_UINT32_EQUAL(f, s) VMSTATE_UINT32_EQUAL_V(f, s, 0, NULL)
#define VMSTATE_UINT64_EQUAL(f, s) VMSTATE_UINT64_EQUAL_V(f, s, 0, NULL)
#endif

/* The object stays as long as the machine. */
#if QEMU_IS_AT_LEAST(11, 0)

static inline bool compat_prepare_delete(UserCreatable *uc, Error **errp)
{
    error_setg(errp, "object '%s' is in use, can not be deleted",
               object_get_canonical_path_component(OBJECT(uc)));
    return false;
}

#define compat_forbid_deletion(ucc)                                         \
    ((ucc)->prepare_delete = compat_prepare_delete)

#else

static inline bool compat_can_be_deleted(UserCreatable *uc)
{
    return false;
}

#define compat_forbid_deletion(ucc)                                         \
    ((ucc)->can_be_deleted = compat_can_be_deleted)

#endif

/* Translate an address as a CPU would; a CPU class's operation for that. */
#if QEMU_IS_AT_LEAST(11, 0)

#define compat_translate_op translate_for_debug

#else

#define compat_translate_op get_phys_page_attrs_debug

typedef struct TranslateForDebugResult {
    hwaddr physaddr;
} TranslateForDebugResult;

static inline bool cpu_translate_for_debug(CPUState *cpu, vaddr addr,
                                           TranslateForDebugResult *result)
{
    vaddr offset = addr & ~qemu_target_page_mask();
    MemTxAttrs attrs;
    hwaddr page = cpu_get_phys_page_attrs_debug(cpu, addr - offset, &attrs);

    result->physaddr = page + offset;
    return page != (hwaddr)-1;
}

#endif

/* Refuse all migration because of *@reasonp, but for the mode cpr-transfer. */
static inline int compat_allow_cpr_transfer_only(Error **reasonp, Error **errp)
{
#if QEMU_IS_AT_LEAST(10, 2)
    unsigned all = MAKE_64BIT_MASK(0, MIG_MODE__MAX);

    return migrate_add_blocker_modes(reasonp, all & ~BIT(MIG_MODE_CPR_TRANSFER),
                                     errp);
#else
    return migrate_add_blocker_modes(reasonp, errp, MIG_MODE_NORMAL,
                                     MIG_MODE_CPR_REBOOT, -1);
#endif
}

#endif
