/*
 * TDX: XFAM, and CPUID as the TDX module answers it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * xfam.toml and cpuid.toml have the data, and say what is computed.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/x86/kvm-hypercall.h"
#include "hw/restricted-memory/profiles/tdx/virtual.h"
#include "hw/restricted-memory/tdx-tables.inc"

#define XFAM_AVX        (1 << 2)
#define XFAM_AVX512     (7 << 5)
#define XFAM_PT         (1 << 8)
#define XFAM_PKU        (1 << 9)
#define XFAM_CET        (3 << 11)
#define XFAM_ULI        (1 << 14)
#define XFAM_LBR        (1 << 15)
#define XFAM_AMX        (3 << 17)

/* In tcg's answer, and not in ours: the flag is the thread's. */
static __thread bool asks_cpu;

/* What the module allows, QEMU emulates and the CPU model shows. */
uint64_t tdx_xfam(const CPUX86State *env)
{
    uint64_t shown = env->features[FEAT_XSAVE_XCR0_LO], xfam = 0;

    for (size_t i = 0; i < ARRAY_SIZE(tdx_xfam_bit_rows); i++) {
        const TableXfamBit *row = &tdx_xfam_bit_rows[i];

        if (row->td == TABLE_ONE
            || (row->td == TABLE_ALLOWED && row->emulated == TABLE_YES
                && shown >> row->bit & 1)) {
            xfam |= UINT64_C(1) << row->bit;
        }
    }
    return xfam;
}

bool tdx_has(const CPUX86State *env, uint8_t feature)
{
    uint64_t xfam = tdx_xfam(env);

    switch (feature) {
    case TABLE_ALWAYS:
        return true;
    case TABLE_PKS:
        return tdx_guest()->attributes & TDX_ATTR_PKS;
    case TABLE_MONITOR:
        return env->features[FEAT_1_ECX] & CPUID_EXT_MONITOR;
    case TABLE_AVX:
        return xfam & XFAM_AVX;
    case TABLE_AVX512:
        return xfam & XFAM_AVX512;
    case TABLE_PT:
        return xfam & XFAM_PT;
    case TABLE_PKU:
        return xfam & XFAM_PKU;
    case TABLE_CET:
        return xfam & XFAM_CET;
    case TABLE_ULI:
        return xfam & XFAM_ULI;
    case TABLE_LBR:
        return xfam & XFAM_LBR;
    case TABLE_AMX:
        return xfam & XFAM_AMX;
    default:
        return false;               /* neither QEMU nor ATTRIBUTES has it */
    }
}

/* The size of a standard XSAVE area for the user state in @bits */
static uint32_t xsave_size(uint64_t bits)
{
    uint32_t size = 512 + 64;

    for (size_t i = 0; i < ARRAY_SIZE(tdx_xfam_bit_rows); i++) {
        const TableXfamBit *row = &tdx_xfam_bit_rows[i];

        if (row->reg == TABLE_XCR0 && bits >> row->bit & 1) {
            size = MAX(size, row->offset + row->size);
        }
    }
    return size;
}

static const TableCpuidLeaf *find_leaf(uint32_t leaf, uint32_t subleaf)
{
    for (size_t i = 0; i < ARRAY_SIZE(tdx_cpuid_leaf_rows); i++) {
        const TableCpuidLeaf *row = &tdx_cpuid_leaf_rows[i];

        if (leaf >= row->first && leaf <= row->last
            && subleaf >= row->subleaf && subleaf <= row->last_subleaf) {
            return row;
        }
    }
    g_assert_not_reached();         /* a test holds that each has a row */
}

bool tdx_cpuid_is_for_host(uint32_t leaf, uint32_t subleaf)
{
    return find_leaf(leaf, subleaf)->answer == TABLE_EXCEPTION;
}

/* Leaves without subleaves have their masks at subleaf 0. */
static bool is_of(uint32_t leaf, uint32_t subleaf, uint32_t row_leaf,
                  uint32_t row_subleaf)
{
    static const uint32_t with_subleaves[] = { 4, 7, 0xd, 0x14, 0x1d, 0x23 };

    for (size_t i = 0; i < ARRAY_SIZE(with_subleaves); i++) {
        if (leaf == with_subleaves[i]) {
            return leaf == row_leaf && subleaf == row_subleaf;
        }
    }
    return leaf == row_leaf;
}

static void mask(const CPUX86State *env, uint32_t leaf, uint32_t subleaf,
                 uint32_t regs[4])
{
    for (size_t i = 0; i < ARRAY_SIZE(tdx_cpuid_mask_rows); i++) {
        const TableCpuidMask *row = &tdx_cpuid_mask_rows[i];
        uint32_t *reg = &regs[row->reg];

        if (is_of(leaf, subleaf, row->leaf, row->subleaf)) {
            *reg = (*reg & (~row->zero | row->own)) | row->one;
        }
    }
    for (size_t i = 0; i < ARRAY_SIZE(tdx_cpuid_feature_rows); i++) {
        const TableCpuidFeature *row = &tdx_cpuid_feature_rows[i];

        if (is_of(leaf, subleaf, row->leaf, row->subleaf)
            && !tdx_has(env, row->when)) {
            regs[row->reg] &= ~row->mask;
        }
    }
}

/* The head of cpuid.toml lists them. */
static void compute(const CPUX86State *env, uint32_t leaf, uint32_t subleaf,
                    uint32_t regs[4])
{
    uint64_t xfam = tdx_xfam(env);

    if (leaf == 0xd && subleaf == 0) {
        regs[R_ECX] = xsave_size(xfam);
    } else if (leaf == 0xd && subleaf > 1
               && (subleaf > 63 || !(xfam >> subleaf & 1))) {
        memset(regs, 0, 4 * sizeof(regs[0]));
    } else if (leaf == 0x80000007) {
        regs[R_EDX] |= CPUID_APM_INVTSC;    /* RDTSC reads the host's counter */
    } else if (leaf == 0x80000001 && !(env->hflags & HF_CS64_MASK)) {
        regs[R_EDX] &= ~CPUID_EXT2_SYSCALL;
    }
}

static void ask_cpu(CPUX86State *env, uint32_t leaf, uint32_t subleaf,
                    uint32_t regs[4])
{
    asks_cpu = true;
    cpu_x86_cpuid(env, leaf, subleaf, &regs[R_EAX], &regs[R_EBX],
                  &regs[R_ECX], &regs[R_EDX]);
    asks_cpu = false;
}

/*
 * KVM's signature without features: Linux looks for it before it relies on
 * x2APIC. Without x2APIC it would use the APIC at a private address.
 */
static void ask_host(CPUX86State *env, uint32_t leaf, uint32_t subleaf,
                     uint32_t regs[4])
{
    if (!restricted_kvm_cpuid(leaf, 0, regs)) {
        ask_cpu(env, leaf, subleaf, regs);
    }
}

/* QEMU's CPU has neither; deviations of their rows. */
static bool is_missing(uint32_t leaf)
{
    return leaf == 0x15 || leaf == 0x23;
}

bool tdx_cpuid(CPUState *cpu, uint32_t leaf, uint32_t subleaf,
               uint32_t regs[4])
{
    CPUX86State *env = cpu_env(cpu);
    const TableCpuidLeaf *row = find_leaf(leaf, subleaf);

    if (asks_cpu) {
        return false;
    }
    memset(regs, 0, 4 * sizeof(regs[0]));
    if (row->answer == TABLE_LAST_LEAF) {
        leaf = 0x23;
        row = find_leaf(leaf, subleaf);
    }
    if (row->answer == TABLE_EXCEPTION) {
        ask_host(env, leaf, subleaf, regs);
    } else if (row->answer == TABLE_MASKED && tdx_has(env, row->when)
               && !is_missing(leaf)) {
        ask_cpu(env, leaf, subleaf, regs);
        mask(env, leaf, subleaf, regs);
        compute(env, leaf, subleaf, regs);
    }
    return true;
}
