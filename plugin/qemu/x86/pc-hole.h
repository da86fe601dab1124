/*
 * x86: the hole that a PC has in its RAM, for VGA, option ROMs and firmware.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_X86_PC_HOLE_H
#define HW_RESTRICTED_MEMORY_QEMU_X86_PC_HOLE_H

#include "exec/hwaddr.h"

#define PC_HOLE_START   0xa0000
#define PC_HOLE_END     0x100000
#define PC_HOLE_SIZE    (PC_HOLE_END - PC_HOLE_START)

static inline bool is_in_pc_hole(hwaddr gpa)
{
    return gpa >= PC_HOLE_START && gpa < PC_HOLE_END;
}

#endif
