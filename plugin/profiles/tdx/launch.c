/*
 * TDX: the launch of a TD.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With TDVF, the sections of its metadata are the launch image, all other
 * memory is pending, and the loader is a device from the first instruction on.
 * Other firmware (SeaBIOS) does not know TDX: all of RAM is in the launch
 * image, and the launch lasts until the guest's first TDCALL.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "hw/i386/apic.h"
#include "hw/i386/pc.h"
#include "hw/i386/x86.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/launch.h"
#include "hw/restricted-memory/qemu/tlb.h"
#include "hw/restricted-memory/qemu/x86/firmware.h"
#include "hw/restricted-memory/qemu/x86/pc-hole.h"
#include "hw/restricted-memory/profiles/tdx/launch.h"
#include "hw/restricted-memory/profiles/tdx/measure.h"
#include "hw/restricted-memory/profiles/tdx/memory.h"
#include "hw/restricted-memory/profiles/tdx/quote.h"
#include "hw/restricted-memory/profiles/tdx/tdvf.h"

#define RESET_VECTOR    0xfffffff0

/* A part of the firmware's file, which ends at 4 GiB */
static uint8_t *in_image(const TdvfSection *section)
{
    return restricted_firmware_at(4 * GiB - restricted_firmware_size()
                                  + section->offset, section->size);
}

static void launch_section(TdxGuest *tdx, const TdvfSection *section,
                           GChecksum *mrtd)
{
    uint8_t *content = restricted_firmware_at(section->gpa, section->size);
    RestrictedPages pages;

    if (!content) {
        if (!restricted_pages(tdx->rm, section->gpa, section->size, &pages)) {
            g_assert_not_reached();     /* see check_section() */
        }
        restricted_load(tdx->rm, &pages);
        content = restricted_content(tdx->rm, pages.first, RMEM_PRIVATE);
        if (section->type == TDVF_BFV || section->type == TDVF_CFV) {
            memcpy(content, in_image(section), section->size);
        }
    }
    if (section->type == TDVF_TD_HOB
        && !tdvf_build_hob(tdx, content, section->gpa, section->size)) {
        error_report("TDVF: the list of memory does not fit its section");
        exit(EXIT_FAILURE);
    }
    for (uint64_t at = 0; at < section->size; at += RMEM_PAGE_SIZE) {
        tdx_measure_page(mrtd, section->gpa + at,
                         section->attributes & TDVF_MR_EXTEND ? content + at
                                                              : NULL);
    }
}

static uint64_t hob_gpa(const TdxGuest *tdx)
{
    for (unsigned i = 0; i < tdx->sections->len; i++) {
        const TdvfSection *section = &g_array_index(tdx->sections,
                                                    TdvfSection, i);

        if (section->type == TDVF_TD_HOB) {
            return section->gpa;
        }
    }
    return 0;
}

/* ABI, "TD VCPU Initial State": 32-bit protected mode, flat, no paging. */
static void launch_cpu(TdxGuest *tdx, CPUState *cpu)
{
    static const int data[] = { R_DS, R_ES, R_FS, R_GS, R_SS };
    X86CPU *x86 = X86_CPU(cpu);
    CPUX86State *env = &x86->env;
    uint64_t apic = cpu_get_apic_base(x86->apic_state);

    cpu_x86_update_cr0(env, CR0_PE_MASK | CR0_NE_MASK | CR0_ET_MASK);
    cpu_x86_update_cr4(env, CR4_MCE_MASK);
    cpu_load_efer(env, MSR_EFER_SCE | MSR_EFER_LME | MSR_EFER_NXE);
    cpu_x86_load_seg_cache(env, R_CS, 8, 0, UINT32_MAX,
                           DESC_P_MASK | DESC_S_MASK | DESC_CS_MASK
                           | DESC_R_MASK | DESC_A_MASK | DESC_B_MASK
                           | DESC_G_MASK);
    for (size_t i = 0; i < ARRAY_SIZE(data); i++) {
        cpu_x86_load_seg_cache(env, data[i], 16, 0, UINT32_MAX,
                               DESC_P_MASK | DESC_S_MASK | DESC_W_MASK
                               | DESC_A_MASK | DESC_B_MASK | DESC_G_MASK);
    }
    env->eip = RESET_VECTOR;
    env->regs[R_EBX] = tdx->gpaw;
    env->regs[R_ESI] = cpu->cpu_index;
    env->regs[R_ECX] = hob_gpa(tdx);
    env->regs[R_R8] = hob_gpa(tdx);
    cpu_set_apic_base(x86->apic_state, apic | MSR_IA32_APICBASE_ENABLE);
    cpu_set_apic_base(x86->apic_state, apic | MSR_IA32_APICBASE_ENABLE
                                            | MSR_IA32_APICBASE_EXTD);
    cpu->halted = 0;
    cpu->exception_index = -1;
}

static void launch_tdvf(TdxGuest *tdx)
{
    g_autoptr(GChecksum) mrtd = g_checksum_new(G_CHECKSUM_SHA384);
    CPUState *cpu;

    for (unsigned i = 0; i < tdx->sections->len; i++) {
        launch_section(tdx, &g_array_index(tdx->sections, TdvfSection, i),
                       mrtd);
    }
    tdx_measure_finish(tdx, mrtd);
    CPU_FOREACH(cpu) {
        launch_cpu(tdx, cpu);
    }
    qatomic_set(&tdx->armed, true);
    restricted_seal(tdx->rm);
}

void tdx_launch(RestrictedMemory *rm)
{
    TdxGuest *tdx = tdx_guest();
    CPUState *cpu;

    memset(tdx->vcpus, 0, tdx->nvcpus * sizeof(TdxVcpu));
    memset(tdx->leaf, TDX_4K, tdx->leaf_bytes);
    qatomic_set(&tdx->td_ctls, tdx->attributes & TDX_ATTR_SEPT_VE_DISABLE
                               ? TDX_CTL_PENDING_VE_DISABLE : 0);
    tdx->notify_enables = 0;
    tdx_forget_quotes(tdx);
    qatomic_set(&tdx->notify_vector, 0);
    qatomic_set(&tdx->armed, false);
    tdx_measure_reset(tdx);
    if (tdx->sections) {
        launch_tdvf(tdx);
        return;
    }
    CPU_FOREACH(cpu) {
        /* A TD starts with it. Linux keeps a copy of CR4 from then on. */
        cpu_x86_update_cr4(cpu_env(cpu), CR4_MCE_MASK);
    }
    WITH_RESTRICTED_LOCK(&rm->lock) {
        rmem_set_launch(&rm->core, 0, rm->core.pages);
    }
}

/*
 * What SeaBIOS did not do, because a TD starts with it: x2APIC mode, and bits
 * that are fixed from then on. A CPU that is not in 64-bit mode is still to be
 * started.
 */
static void arm_cpu(CPUState *cpu)
{
    X86CPU *x86 = X86_CPU(cpu);
    CPUX86State *env = &x86->env;

    cpu_set_apic_base(x86->apic_state,
                      cpu_get_apic_base(x86->apic_state)
                      | MSR_IA32_APICBASE_ENABLE | MSR_IA32_APICBASE_EXTD);
    if (env->efer & MSR_EFER_LMA) {
        cpu_load_efer(env, env->efer | MSR_EFER_SCE | MSR_EFER_NXE);
        cpu_x86_update_cr0(env, env->cr[0] | CR0_NE_MASK);
    }
}

void tdx_arm(TdxGuest *tdx)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        arm_cpu(cpu);
    }
    qatomic_set(&tdx->armed, true);
    restricted_seal(tdx->rm);
    /* The entries of the TLBs were judged without regard to the S bit. */
    restricted_flush_later();
}

/* With TDVF, the PC hole is RAM at private addresses. */
static void map_hole(TdxGuest *tdx)
{
    MemoryRegion *alias = g_new0(MemoryRegion, 1);

    tdx->rm->hole_is_ram = true;
    memory_region_init_alias(alias, OBJECT(tdx->rm), "tdx-low-private",
                             &tdx->rm->private_ram, PC_HOLE_START,
                             PC_HOLE_SIZE);
    memory_region_add_subregion_overlap(&tdx->rm->cpu_root,
                                        RESTRICTED_PRIVATE_VIEW + PC_HOLE_START,
                                        alias, 1);
}

static bool check_section(const TdxGuest *tdx, const TdvfSection *section)
{
    RestrictedPages pages;

    return restricted_firmware_at(section->gpa, section->size)
           || restricted_pages(tdx->rm, section->gpa, section->size, &pages);
}

bool tdx_launch_init(TdxGuest *tdx, Error **errp)
{
    X86MachineState *x86ms = X86_MACHINE(qdev_get_machine());

    tdx->nvcpus = MACHINE(x86ms)->smp.max_cpus;
    tdx->vcpus = g_new0(TdxVcpu, tdx->nvcpus);
    tdx->leaf_bytes = DIV_ROUND_UP(tdx->rm->core.pages,
                                   RESTRICTED_PAGES_2M);
    tdx->leaf = g_malloc0(tdx->leaf_bytes);
    tdx_vmstate_init(tdx);
    if (!tdx->sections) {
        return true;
    }
    if (!restricted_firmware_size()) {
        error_setg(errp, "TDVF is private memory of the guest, not flash: "
                   "say -bios FILE");
        return false;
    }
    for (unsigned i = 0; i < tdx->sections->len; i++) {
        const TdvfSection *section = &g_array_index(tdx->sections,
                                                    TdvfSection, i);

        if (!check_section(tdx, section)) {
            error_setg(errp, "TDVF: section %u at 0x%" PRIx64 " is neither "
                       "in RAM nor in the firmware", i, section->gpa);
            return false;
        }
    }
    /* The guest writes to it. */
    memory_region_set_readonly(&x86ms->bios, false);
    map_hole(tdx);
    return true;
}

bool tdx_launch_prepare(TdxGuest *tdx, Error **errp)
{
    Error *err = NULL;
    gsize size;
    g_autofree uint8_t *image = restricted_firmware_read(&size);

    if (image) {
        tdx->sections = tdvf_parse(image, size, &err);
    }
    if (err) {
        error_propagate(errp, err);
        return false;
    }
    if (!tdx->sections) {
        restricted_adopt_acpi_tables(tdx->rm);
    }
    return true;
}
