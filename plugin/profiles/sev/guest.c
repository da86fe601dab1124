/*
 * sev-guest and sev-snp-guest, emulated: QEMU's objects, without KVM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * target/i386/sev.c needs KVM; properties.c says which properties have an
 * effect here.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "system/confidential-guest-support.h"
#include "system/tcg.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/x86/hooks-x86.h"
#include "hw/restricted-memory/qemu/x86/kvm-hypercall.h"
#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/profiles/x86.h"
#include "hw/restricted-memory/profiles/sev/ap.h"
#include "hw/restricted-memory/profiles/sev/launch.h"
#include "hw/restricted-memory/profiles/sev/memory.h"
#include "hw/restricted-memory/profiles/sev/metadata.h"
#include "hw/restricted-memory/profiles/sev/query.h"
#include "hw/restricted-memory/profiles/sev/request.h"
#include "hw/restricted-memory/profiles/sev/vmstate.h"
#include "hw/restricted-memory/profiles/sev/rmp.h"
#include "hw/restricted-memory/profiles/sev/vc.h"
#include "target/i386/sev.h"

#define CPUID_SEV           0x8000001f

static SevGuest the_guest;

SevGuest *sev_guest(void)
{
    return &the_guest;
}

/* APM, volume 2, 15.34.10: SEV, ES, SNP */
uint64_t sev_status(const SevGuest *sev)
{
    return (UINT64_C(2) << sev->level) - 1;
}

static bool sev_cpuid(CPUState *cpu, uint32_t index, uint32_t subindex,
                      uint32_t regs[4])
{
    static const uint32_t features[] = { 0x02, 0x0a, 0x1a };

    if (index == CPUID_SEV) {
        regs[R_EAX] = features[the_guest.level];
        regs[R_EBX] = SEV_C_BIT | 1 << 6;
        regs[R_ECX] = 0;
        regs[R_EDX] = 0;
        return true;
    }
    memset(regs, 0, 4 * sizeof(regs[0]));
    return restricted_kvm_cpuid(index, the_guest.level == SEV_SNP ? 0
                                : RESTRICTED_KVM_MAP_GPA_RANGE
                                  | RESTRICTED_KVM_MIGRATION, regs);
}

/* Our defaults: -cpu can override them, and check_cpu() checks the result. */
static void set_cpu_defaults(void)
{
    object_register_sugar_prop(TYPE_X86_CPU, "vendor", CPUID_VENDOR_AMD,
                               false);
    object_register_sugar_prop(TYPE_X86_CPU, "phys-bits", "52", false);
    object_register_sugar_prop(TYPE_X86_CPU, "min-xlevel", "2147483679",
                               false);
}

static const char *const levels[] = {
    [SEV_PLAIN] = "sev", [SEV_ES] = "sev-es", [SEV_SNP] = "sev-snp",
};

static bool sev_attach(RestrictedMemory *rm, Error **errp)
{
    ConfidentialGuestSupport *cgs = current_machine->cgs;
    SevGuest *sev = &the_guest;

    sev->object = object_dynamic_cast(OBJECT(cgs), TYPE_SEV_COMMON);
    if (!sev->object) {
        error_setg(errp, "profile=%s needs a guest object: say -object %s,"
                   "id=cgs0,cbitpos=51,reduced-phys-bits=1 -machine "
                   "confidential-guest-support=cgs0", rm->profile_name,
                   strcmp(rm->profile_name, levels[SEV_SNP])
                   ? TYPE_SEV_GUEST : TYPE_SEV_SNP_GUEST);
        return false;
    }
    if (!tcg_enabled()) {
        error_setg(errp, "this guest is emulated: it needs -accel tcg");
        return false;
    }
    if (!restricted_is_split(rm)) {
        error_setg(errp, "profile=%s needs layout=split: encrypted and "
                   "unencrypted memory are different memory",
                   rm->profile_name);
        return false;
    }
    sev->rm = rm;
    if (!sev_get_properties(sev, errp)) {
        return false;
    }
    if (strcmp(rm->profile_name, levels[sev->level])) {
        error_setg(errp, "the guest object is that of profile=%s, not of "
                   "profile=%s (bit 2 of a sev-guest's policy is ES)",
                   levels[sev->level], rm->profile_name);
        return false;
    }
    if (sev->strict && sev->level == SEV_PLAIN) {
        error_setg(errp, "vc=strict needs an SEV-ES or SEV-SNP guest: a guest "
                   "without encrypted state has no #VC");
        return false;
    }
    if (!sev_launch_prepare(sev, errp)) {
        return false;
    }
    set_cpu_defaults();
    restricted_memory_trapping = sev->strict;
    cgs->require_guest_memfd = false;
    cgs->ready = true;
    return true;
}

static bool check_cpu(Error **errp)
{
    X86CPU *cpu = X86_CPU(first_cpu);
    const CPUX86State *env = &cpu->env;

    if (!IS_AMD_CPU(env)) {
        error_setg(errp, "an SEV guest's CPU is AMD's: drop vendor= from "
                   "-cpu");
    } else if (cpu->phys_bits != 52) {
        error_setg(errp, "-cpu phys-bits=%u: the C-bit is bit 51 of 52",
                   cpu->phys_bits);
    } else if (env->cpuid_xlevel < CPUID_SEV) {
        error_setg(errp, "an SEV guest is found by CPUID leaf 0x%x, and -cpu "
                   "ends at 0x%x: drop xlevel= and min-xlevel=", CPUID_SEV,
                   env->cpuid_xlevel);
    } else if (!(env->features[FEAT_1_ECX] & CPUID_EXT_RDRAND)) {
        error_setg(errp, "an SEV guest needs RDRAND: take -cpu max");
    } else {
        return true;
    }
    return false;
}

static bool sev_machine_done(RestrictedMemory *rm, Error **errp)
{
    sev_query_init();
    return check_cpu(errp) && sev_launch_init(&the_guest, errp);
}

static const RestrictedX86Ops sev_ops = {
    .cpuid = sev_cpuid,
    .hypercall = restricted_kvm_hypercall,
    .msr = sev_msr,
    .hashes = sev_hashes,
    .hash = sev_hash,
};

const RestrictedProfile restricted_profile_sev = {
    .name = "sev",
    .devices_load = true,
    .arch_ops = &sev_ops,
    .attach = sev_attach,
    .machine_done = sev_machine_done,
    .launch = sev_launch,
    .unfinished = sev_unfinished,
    .forget_requests = sev_forget_requests,
    .view_bit = sev_view_bit,
    .alias = sev_alias,
    .fault = sev_fault,
    .is_shared_untold = sev_is_shared_untold,
};

static const RestrictedX86Ops sev_es_ops = {
    .cpuid = sev_cpuid,
    .hypercall = sev_hypercall,
    .instruction = sev_instruction,
    .msr = sev_msr,
    .sipi = sev_sipi,
    .hashes = sev_hashes,
    .hash = sev_hash,
    .intercept = sev_intercept,
    .exits = sev_exits,
};

const RestrictedProfile restricted_profile_sev_es = {
    .name = "sev-es",
    .devices_load = true,
    .hides_state = true,
    .arch_ops = &sev_es_ops,
    .attach = sev_attach,
    .machine_done = sev_machine_done,
    .launch = sev_launch,
    .unfinished = sev_unfinished,
    .forget_requests = sev_forget_requests,
    .view_bit = sev_view_bit,
    .alias = sev_alias,
    .fault = sev_fault,
    .is_shared_untold = sev_is_shared_untold,
    .mmio = sev_mmio,
};

static const RestrictedX86Ops sev_snp_ops = {
    .cpuid = sev_cpuid,
    .hypercall = sev_hypercall,
    .instruction = sev_instruction,
    .has_work = sev_request_has_work,
    .msr = sev_msr,
    .sipi = sev_sipi,
    .hashes = sev_hashes,
    .hash = sev_hash,
    .intercept = sev_intercept,
    .exits = sev_exits,
};

const RestrictedProfile restricted_profile_sev_snp = {
    .name = "sev-snp",
    .devices_load = true,
    .hides_state = true,
    .arch_ops = &sev_snp_ops,
    .attach = sev_attach,
    .machine_done = sev_machine_done,
    .launch = sev_launch,
    .unfinished = sev_unfinished,
    .forget_requests = sev_forget_requests,
    .view_bit = sev_view_bit,
    .alias = sev_alias,
    .fault = sev_fault,
    .mmio = sev_mmio,
};
