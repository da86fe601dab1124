/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Constants shared by assembly, C and the tests. The address space:
 *
 *  identity map  0 .. MAP_LIMIT, 2 MiB pages: virtual address = GPA
 *  image         KERNEL_BASE + GPA: the first GiB again. The guest runs there,
 *                because an instruction fetch from the upper half ends the launch.
 */
#ifndef LAYOUT_H
#define LAYOUT_H

#define KERNEL_BASE     0xffffffff80000000
#define IMAGE_GPA       0x100000
#define TRAMPOLINE_GPA  0x8000
#define MAP_GIB         8
#define SHARED_MAP      0x10000000000   /* map-shared: the first GiB, with an address bit set */

#define SEL_CODE64      0x08
#define SEL_DATA        0x10
#define SEL_CODE32      0x18

#endif
