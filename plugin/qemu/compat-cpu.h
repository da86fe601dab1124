/*
 * What versions of QEMU call differently, for files of one target.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_COMPAT_CPU_H
#define HW_RESTRICTED_MEMORY_QEMU_COMPAT_CPU_H

#include "hw/restricted-memory/qemu/compat.h"
#include "cpu.h"

#if QEMU_IS_AT_LEAST(11, 0)
#include "accel/tcg/cpu-loop.h"
#endif

#if QEMU_IS_AT_LEAST(10, 1)

#include "accel/tcg/cpu-ldst.h"
#include "accel/tcg/probe.h"
#include "exec/translation-block.h"

#else

#include "exec/cpu_ldst.h"
#include "exec/exec-all.h"

#define INSN_START_WORDS TARGET_INSN_START_WORDS
#define tb_invalidate_phys_range(cpu, start, last)                          \
    tb_invalidate_phys_range(start, last)

#endif

#if !QEMU_IS_AT_LEAST(10, 2)
#define cpu_tlb_fast(cpu, mode) (&(cpu)->neg.tlb.f[mode])
#endif

#endif
