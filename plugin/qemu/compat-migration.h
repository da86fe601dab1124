/*
 * What versions of QEMU call differently when devices are saved.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_COMPAT_MIGRATION_H
#define HW_RESTRICTED_MEMORY_QEMU_COMPAT_MIGRATION_H

#include "io/channel-buffer.h"
#include "migration/global_state.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"
#include "migration/savevm.h"
#include "hw/restricted-memory/qemu/compat.h"

/* It warns code of the migration itself, which leaves blocks out. */
#undef qemu_ram_foreach_block

#if QEMU_IS_AT_LEAST(11, 0)
#include "hw/core/sysbus.h"
#define compat_save_device_state qemu_save_device_state
#else
#include "exec/ramblock.h"
#include "hw/sysbus.h"
#define compat_save_device_state(file, errp) qemu_save_device_state(file)
#endif

#if QEMU_IS_AT_LEAST(10, 2)
#define compat_load_device_state qemu_load_device_state
#else
#define compat_load_device_state(file, errp) qemu_load_device_state(file)
#endif

#endif
