/*
 * Rows of the tables that gen-tables.py compiles: what a guest of a technology
 * sees, and what its host answers. tdx/ and sev/ have the data; the head of
 * each document says what its words mean.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Rows of a kind are in the order of their first columns, and do not overlap.
 */

#ifndef RESTRICTED_MEMORY_TABLES_H
#define RESTRICTED_MEMORY_TABLES_H

#include <stdint.h>

/* Registers of CPUID, by QEMU's numbers */
enum { TABLE_EAX, TABLE_ECX, TABLE_EDX, TABLE_EBX };

/* Fields of a GHCB that an exit needs, as a mask */
enum {
    TABLE_RAX = 1, TABLE_RBX = 2, TABLE_RCX = 4, TABLE_RDX = 8,
    TABLE_CPL = 16, TABLE_SCRATCH = 32,
};

/* All other words; one may be in several columns. */
enum {
    /* What an access does */
    TABLE_NATIVE, TABLE_EXCEPTION, TABLE_GP, TABLE_UD, TABLE_PF, TABLE_VALUE,
    TABLE_TABLE, TABLE_HOST, TABLE_STOP, TABLE_OWNED, TABLE_IGNORE,
    TABLE_STATUS, TABLE_MASKED, TABLE_LAST_LEAF,
    /* What a host answers */
    TABLE_REFUSE, TABLE_RUN, TABLE_STORE, TABLE_APIC, TABLE_MCE,
    /* Bits and rules */
    TABLE_ZERO, TABLE_ONE, TABLE_ALLOWED, TABLE_FORCED, TABLE_VMSA,
    TABLE_SUBSET, TABLE_AT_MOST, TABLE_EQUAL, TABLE_UNCHECKED, TABLE_YES,
    TABLE_NO,
    /* MSRs with a handler of their own */
    TABLE_ARCH_CAPABILITIES, TABLE_MISC_ENABLE, TABLE_PERF_CAPABILITIES,
    TABLE_DEBUGCTL, TABLE_EFER, TABLE_TSC,
    /* Features of the guest; XSS is a handler, too */
    TABLE_ALWAYS, TABLE_PERFMON, TABLE_PERFMON_METRICS, TABLE_PT, TABLE_CET,
    TABLE_ULI, TABLE_LBR, TABLE_PKS, TABLE_XFD, TABLE_TSX, TABLE_UMWAIT,
    TABLE_DCA, TABLE_TME, TABLE_MKTME, TABLE_TSC_DEADLINE, TABLE_MONITOR,
    TABLE_AVX, TABLE_AVX512, TABLE_PKU, TABLE_AMX, TABLE_KEY_LOCKER,
    TABLE_SPEC_CTRL, TABLE_FLUSH_CMD, TABLE_TSC_AUX, TABLE_XSS,
    /* Registers, instructions, levels of SEV */
    TABLE_CR0, TABLE_CR4, TABLE_XCR0, TABLE_PVALIDATE, TABLE_VMMCALL,
    TABLE_VMGEXIT, TABLE_ES, TABLE_SNP,
};

typedef struct TableMsr {
    uint32_t first, last;
    uint8_t read, write, when, otherwise;
    uint64_t value;
} TableMsr;

typedef struct TableHostMsr {
    uint32_t first, last;
    uint8_t read, write;
    uint64_t value, mask;
} TableHostMsr;

typedef struct TableArchCapability {
    uint8_t first, last, td, shown;
} TableArchCapability;

typedef struct TableCpuidLeaf {
    uint32_t first, last, subleaf, last_subleaf;
    uint8_t answer, when;
} TableCpuidLeaf;

typedef struct TableCpuidMask {
    uint32_t leaf, subleaf;
    uint8_t reg;
    uint32_t zero, one, need, vmm, own;
} TableCpuidMask;

typedef struct TableCpuidFeature {
    uint32_t leaf, subleaf;
    uint8_t reg;
    uint32_t mask;
    uint8_t when;
} TableCpuidFeature;

typedef struct TableCpuidPolicy {
    uint32_t leaf, subleaf;
    uint8_t reg, rule;
    uint32_t mask, value;
} TableCpuidPolicy;

typedef struct TableControlBit {
    uint8_t reg, first, last, set, clear, initial, when, otherwise;
} TableControlBit;

typedef struct TableXfamBit {
    uint8_t bit, td, reg;
    uint32_t group, needs, offset, size;
    uint8_t emulated;
} TableXfamBit;

typedef struct TableInstruction {
    uint8_t first, last, answer, when, otherwise;
} TableInstruction;

typedef struct TableExit {
    uint32_t first, last;
    uint8_t es, snp;
} TableExit;

typedef struct TableCheck {
    uint8_t instruction, step, result;
    uint32_t value;
} TableCheck;

typedef struct TableStatusBit {
    uint8_t bit, sev, es, snp;
} TableStatusBit;

typedef struct TableGhcbRequest {
    uint16_t request, response;
    uint8_t level, answer;
} TableGhcbRequest;

typedef struct TableGhcbExit {
    uint32_t first, last;
    uint8_t needs, level, answer;
} TableGhcbExit;

#endif
