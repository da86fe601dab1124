/*
 * x86: the operations of a profile that only this architecture has.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_X86_OPS_H
#define HW_RESTRICTED_MEMORY_QEMU_X86_OPS_H

#include "hw/restricted-memory/qemu/profile.h"

/* An instruction that only guests with restricted memory have. */
typedef struct RestrictedInsn {
    CPUState *cpu;
    uint8_t opcode;             /* RESTRICTED_*, see hooks-x86.h */
    uint8_t prefix;             /* RESTRICTED_REPZ, ... */
    int length;
    uintptr_t ra;
} RestrictedInsn;

/* As PREFIX_* in target/i386/tcg/translate.c */
enum { RESTRICTED_REPZ = 1, RESTRICTED_REPNZ = 2, RESTRICTED_DATA = 8,
       RESTRICTED_ADR = 16 };

struct SevKernelLoaderContext;

/* The guest has used its interface at @pc: is it its kernel? Any thread. */
void restricted_count_call(RestrictedMemory *rm, uint64_t pc);

/* All optional. */
typedef struct RestrictedArchOps {
    /* See hooks-x86.h. */
    bool (*cpuid)(CPUState *cpu, uint32_t index, uint32_t subindex,
                  uint32_t regs[4]);
    bool (*hypercall)(RestrictedMemory *rm, CPUState *cpu);
    bool (*msr)(CPUState *cpu, uint32_t index, bool write, uint64_t *value,
                uintptr_t ra);
    void (*intercept)(CPUState *cpu, uint32_t type, uint64_t param,
                      uintptr_t ra);
    /* Would hardware raise the exception by which a guest asks its host? */
    bool (*exits)(CPUState *cpu, uint32_t type, uint64_t param);
    bool (*has_work)(CPUState *cpu);
    void (*sipi)(RestrictedMemory *rm, CPUState *cpu);
    bool (*hashes)(RestrictedMemory *rm);
    void (*hash)(RestrictedMemory *rm,
                 const struct SevKernelLoaderContext *context);
    /* False if there is no such instruction in this guest. */
    bool (*instruction)(RestrictedMemory *rm, const RestrictedInsn *insn);
} RestrictedX86Ops;

#endif
