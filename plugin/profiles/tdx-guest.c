/*
 * tdx-guest: an emulated TD, with the properties that QEMU gives a real one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU interface:
 *  + property "attributes": the TD's ATTRIBUTES; DEBUG, SEPT_VE_DISABLE, PKS
 *  + property "sept-ve-disable": that bit (default: on, Linux insists)
 *  + properties "mrconfigid", "mrowner", "mrownerconfig": 48 bytes, base64
 *  + property "quote-generation-socket": who answers GetQuote
 *  + property "gpaw": width of a guest physical address, 48 or 52; ours
 *  + property "ve": lazy, or strict: #VE for CPUID, I/O, ...; ours
 *  + property "accept-1g": acceptance at 1 GiB, which TDX 1.5 refuses; ours
 *  + property "map-gpa-max": bytes that a MapGPA converts before the guest
 *    has to call again, 0 for all; "map-gpa-retry": times that it has to call
 *    again before anything is done; "map-gpa-refuse": all are refused; ours
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-restricted-memory.h"
#include "qapi/qapi-visit-sockets.h"
#include "qapi/visitor.h"
#include "qemu/base64.h"
#include "qom/object_interfaces.h"
#include "hw/boards.h"
#include "system/tcg.h"
#include "tdx.h"

#define CPUID_TDX           0x21

#define ATTR_SUPPORTED (TDX_ATTR_DEBUG | TDX_ATTR_SEPT_VE_DISABLE | TDX_ATTR_PKS)

static TdxGuest *the_guest;

TdxGuest *tdx_guest(void)
{
    return the_guest;
}

/*
 * KVM's signature without features: Linux asks for it before it relies on
 * x2APIC, and without x2APIC it would use the APIC at a private address.
 */
static bool tdx_cpuid(CPUState *cpu, uint32_t index, uint32_t subindex,
                      uint32_t regs[4])
{
    memset(regs, 0, 4 * sizeof(regs[0]));
    switch (index) {
    case CPUID_TDX:
        memcpy(&regs[R_EBX], "Inte", 4);
        memcpy(&regs[R_EDX], "lTDX", 4);
        memcpy(&regs[R_ECX], "    ", 4);
        return true;
    default:
        return restricted_kvm_cpuid(index, 0, regs);
    }
}

/* Defaults of ours, which -cpu can override; check_cpu() has the last word. */
static void set_cpu_defaults(const TdxGuest *tdx)
{
    object_register_sugar_prop(TYPE_X86_CPU, "vendor", CPUID_VENDOR_INTEL,
                               false);
    object_register_sugar_prop(TYPE_X86_CPU, "phys-bits",
                               tdx->gpaw == 52 ? "52" : "48", false);
    object_register_sugar_prop(TYPE_X86_CPU, "min-level", "33", false);
    object_register_sugar_prop(TYPE_X86_CPU, "monitor", "off", false);
}

static bool tdx_attach(RestrictedMemory *rm, Error **errp)
{
    ConfidentialGuestSupport *cgs = current_machine->cgs;
    TdxGuest *tdx = (TdxGuest *)object_dynamic_cast(OBJECT(cgs),
                                                    TYPE_TDX_GUEST);

    if (!tdx) {
        error_setg(errp, "profile=tdx needs a TD: say -object tdx-guest,"
                   "id=tdx0 -machine confidential-guest-support=tdx0");
        return false;
    }
    if (!tcg_enabled()) {
        error_setg(errp, "this tdx-guest is emulated: it needs -accel tcg");
        return false;
    }
    if (!restricted_is_split(rm)) {
        error_setg(errp, "profile=tdx needs layout=split: private and shared "
                   "memory of a TD are different memory");
        return false;
    }
    tdx->rm = rm;
    if (!tdx_launch_prepare(tdx, errp)) {
        return false;
    }
    /* A host may look into a TD if it is a debug TD: either says both. */
    tdx->attributes |= rm->debuggable ? TDX_ATTR_DEBUG : 0;
    rm->debuggable |= (tdx->attributes & TDX_ATTR_DEBUG) != 0;
    set_cpu_defaults(tdx);
    restricted_memory_trapping = tdx->strict;
    the_guest = tdx;
    cgs->ready = true;
    return true;
}

static bool check_cpu(const TdxGuest *tdx, Error **errp)
{
    X86CPU *cpu = X86_CPU(first_cpu);
    const CPUX86State *env = &cpu->env;

    if (!IS_INTEL_CPU(env)) {
        error_setg(errp, "a TD's CPU is Intel's: drop vendor= from -cpu");
    } else if (cpu->phys_bits < tdx->gpaw) {
        error_setg(errp, "-cpu phys-bits=%u is less than gpaw=%u",
                   cpu->phys_bits, tdx->gpaw);
    } else if (env->cpuid_level < CPUID_TDX) {
        error_setg(errp, "a TD is found by CPUID leaf 0x21, and -cpu ends at "
                   "0x%x: drop level= and min-level=", env->cpuid_level);
    } else if (!(env->features[FEAT_1_ECX] & CPUID_EXT_X2APIC)) {
        error_setg(errp, "a TD's CPU has x2APIC: drop x2apic=off from -cpu, "
                   "or take -cpu max");
    } else {
        return true;
    }
    return false;
}

/*
 * ABI, "IA32_ARCH_CAPABILITIES": a TD has it, with RDCL_NO and its like set.
 * Without them a kernel guards itself against the host's faults, as it cannot
 * know the host: RDCL_NO spares page table isolation, a TLB flush per system
 * call here, and ITS_NO a jump to a thunk for each return.
 * IBRS_ALL is not there: QEMU's CPU has no IA32_SPEC_CTRL.
 */
#define ARCH_CAP_ITS_NO (1ULL << 62)

#define ARCH_CAPABILITIES                                                  \
    (MSR_ARCH_CAP_RDCL_NO | MSR_ARCH_CAP_SKIP_L1DFL_VMENTRY                \
     | MSR_ARCH_CAP_MDS_NO | MSR_ARCH_CAP_PSCHANGE_MC_NO                   \
     | MSR_ARCH_CAP_TAA_NO | MSR_ARCH_CAP_SBDR_SSDP_NO                     \
     | MSR_ARCH_CAP_FBSDP_NO | MSR_ARCH_CAP_PSDP_NO | MSR_ARCH_CAP_BHI_NO  \
     | MSR_ARCH_CAP_PBRSB_NO | MSR_ARCH_CAP_GDS_NO | MSR_ARCH_CAP_RFDS_NO  \
     | ARCH_CAP_ITS_NO)

static void set_arch_capabilities(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        CPUX86State *env = cpu_env(cpu);

        env->features[FEAT_7_0_EDX] |= CPUID_7_0_EDX_ARCH_CAPABILITIES;
        env->features[FEAT_ARCH_CAPABILITIES] = ARCH_CAPABILITIES;
    }
}

static bool tdx_msr(CPUState *cpu, uint32_t index, bool write,
                    uint64_t *value, uintptr_t ra)
{
    if (index != MSR_IA32_ARCH_CAPABILITIES || write) {
        return false;
    }
    *value = cpu_env(cpu)->features[FEAT_ARCH_CAPABILITIES];
    return true;
}

static bool tdx_machine_done(RestrictedMemory *rm, Error **errp)
{
    set_arch_capabilities();
    return check_cpu(the_guest, errp) && tdx_launch_init(the_guest, errp);
}

static void tdx_complete(UserCreatable *uc, Error **errp)
{
    TdxGuest *tdx = TDX_GUEST(uc);

    if (tdx->gpaw != 48 && tdx->gpaw != 52) {
        error_setg(errp, "gpaw=%u: it is 48 or 52", tdx->gpaw);
    } else if (tdx->attributes & ~ATTR_SUPPORTED) {
        error_setg(errp, "attributes 0x%" PRIx64 " are not emulated",
                   tdx->attributes & ~ATTR_SUPPORTED);
    } else if (tdx->map_gpa_max & (RMEM_PAGE_SIZE - 1)) {
        error_setg(errp, "map-gpa-max is not a multiple of 4 KiB");
    }
}

static bool tdx_can_be_deleted(UserCreatable *uc)
{
    return false;
}

static bool get_sept_ve_disable(Object *obj, Error **errp)
{
    return TDX_GUEST(obj)->attributes & TDX_ATTR_SEPT_VE_DISABLE;
}

static void set_sept_ve_disable(Object *obj, bool value, Error **errp)
{
    TdxGuest *tdx = TDX_GUEST(obj);

    tdx->attributes &= ~TDX_ATTR_SEPT_VE_DISABLE;
    tdx->attributes |= value ? TDX_ATTR_SEPT_VE_DISABLE : 0;
}

static char *hash_get(const uint8_t *hash)
{
    return g_base64_encode(hash, TDX_HASH_BYTES);
}

static void hash_set(uint8_t *hash, const char *name, const char *value,
                     Error **errp)
{
    size_t size;
    g_autofree uint8_t *bytes = qbase64_decode(value, -1, &size, errp);

    if (bytes && size != TDX_HASH_BYTES) {
        error_setg(errp, "%s has %zu bytes, it needs %d, as base64", name,
                   size, TDX_HASH_BYTES);
    } else if (bytes) {
        memcpy(hash, bytes, TDX_HASH_BYTES);
    }
}

#define HASH_PROPERTY(field)                                                \
    static char *get_##field(Object *obj, Error **errp)                     \
    {                                                                       \
        return hash_get(TDX_GUEST(obj)->field);                             \
    }                                                                       \
    static void set_##field(Object *obj, const char *value, Error **errp)   \
    {                                                                       \
        hash_set(TDX_GUEST(obj)->field, #field, value, errp);               \
    }

HASH_PROPERTY(mrconfigid)
HASH_PROPERTY(mrowner)
HASH_PROPERTY(mrownerconfig)

static int get_ve(Object *obj, Error **errp)
{
    return TDX_GUEST(obj)->strict ? TDX_GUEST_VE_STRICT : TDX_GUEST_VE_LAZY;
}

static void set_ve(Object *obj, int value, Error **errp)
{
    TDX_GUEST(obj)->strict = value == TDX_GUEST_VE_STRICT;
}

static bool get_accept_1g(Object *obj, Error **errp)
{
    return TDX_GUEST(obj)->accept_1g;
}

static void set_accept_1g(Object *obj, bool value, Error **errp)
{
    TDX_GUEST(obj)->accept_1g = value;
}

static bool get_map_gpa_refuse(Object *obj, Error **errp)
{
    return TDX_GUEST(obj)->map_gpa_refuse;
}

static void set_map_gpa_refuse(Object *obj, bool value, Error **errp)
{
    TDX_GUEST(obj)->map_gpa_refuse = value;
}

static void visit_map_gpa_max(Object *obj, Visitor *v, const char *name,
                              void *opaque, Error **errp)
{
    visit_type_size(v, name, &TDX_GUEST(obj)->map_gpa_max, errp);
}

static void get_socket(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    visit_type_SocketAddress(v, name, &TDX_GUEST(obj)->quote_address, errp);
}

static void set_socket(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    TdxGuest *tdx = TDX_GUEST(obj);
    SocketAddress *address = NULL;

    if (visit_type_SocketAddress(v, name, &address, errp)) {
        qapi_free_SocketAddress(tdx->quote_address);
        tdx->quote_address = address;
    }
}

static void tdx_instance_init(Object *obj)
{
    TdxGuest *tdx = TDX_GUEST(obj);

    tdx->attributes = TDX_ATTR_SEPT_VE_DISABLE;
    tdx->gpaw = 48;
    qemu_mutex_init(&tdx->rtmr_lock);
    object_property_add_uint64_ptr(obj, "attributes", &tdx->attributes,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "gpaw", &tdx->gpaw,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "map-gpa-retry", &tdx->map_gpa_retry,
                                   OBJ_PROP_FLAG_READWRITE);
}

static void tdx_instance_finalize(Object *obj)
{
    TdxGuest *tdx = TDX_GUEST(obj);

    qapi_free_SocketAddress(tdx->quote_address);
    qemu_mutex_destroy(&tdx->rtmr_lock);
}

static void tdx_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = tdx_complete;
    ucc->can_be_deleted = tdx_can_be_deleted;
    object_class_property_add_bool(oc, "sept-ve-disable", get_sept_ve_disable,
                                   set_sept_ve_disable);
    object_class_property_add_str(oc, "mrconfigid", get_mrconfigid,
                                  set_mrconfigid);
    object_class_property_add_str(oc, "mrowner", get_mrowner, set_mrowner);
    object_class_property_add_str(oc, "mrownerconfig", get_mrownerconfig,
                                  set_mrownerconfig);
    object_class_property_add(oc, "quote-generation-socket", "SocketAddress",
                              get_socket, set_socket, NULL, NULL);
    object_class_property_add_enum(oc, "ve", "TdxGuestVe", &TdxGuestVe_lookup,
                                   get_ve, set_ve);
    object_class_property_add_bool(oc, "accept-1g", get_accept_1g,
                                   set_accept_1g);
    object_class_property_add(oc, "map-gpa-max", "size", visit_map_gpa_max,
                              visit_map_gpa_max, NULL, NULL);
    object_class_property_add_bool(oc, "map-gpa-refuse", get_map_gpa_refuse,
                                   set_map_gpa_refuse);
}

static const TypeInfo tdx_info = {
    .name = TYPE_TDX_GUEST,
    .parent = TYPE_CONFIDENTIAL_GUEST_SUPPORT,
    .instance_size = sizeof(TdxGuest),
    .instance_init = tdx_instance_init,
    .instance_finalize = tdx_instance_finalize,
    .class_init = tdx_class_init,
    .interfaces = (InterfaceInfo[]) { { TYPE_USER_CREATABLE }, { } },
};

static void tdx_register_types(void)
{
    type_register_static(&tdx_info);
}

type_init(tdx_register_types)

const RestrictedProfile restricted_profile_tdx = {
    .name = "tdx",
    .devices_load = true,
    .cpuid = tdx_cpuid,
    .attach = tdx_attach,
    .machine_done = tdx_machine_done,
    .launch = tdx_launch,
    .alias = tdx_alias,
    .fault = tdx_fault,
    .mmio = tdx_mmio,
    .instruction = tdx_instruction,
    .has_work = tdx_has_work,
    .msr = tdx_msr,
    .intercept = tdx_intercept,
};
