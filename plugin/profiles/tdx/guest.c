/*
 * tdx-guest: an emulated TD, with the properties that a real one has in QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU interface:
 *  + property "attributes": the TD's ATTRIBUTES; DEBUG, SEPT_VE_DISABLE, PKS
 *  + property "sept-ve-disable": that bit (default: on, Linux insists)
 *  + properties "mrconfigid", "mrowner", "mrownerconfig": 48 bytes, base64
 *  + property "quote-generation-socket": the service that answers GetQuote;
 *    "quote-timeout": how many seconds it may take, ours
 *  + property "gpaw": width of a guest physical address, 48 or 52; ours
 *  + property "ve": lazy, or strict: #VE for CPUID, I/O, ...; ours
 *  + property "accept-1g": acceptance at 1 GiB, which TDX 1.5 refuses; ours
 *  + property "map-gpa-max": bytes that a MapGPA converts before the guest
 *    has to call again, 0 for all; "map-gpa-retry": how often it has to call
 *    again before anything is done; "map-gpa-refuse": refuse all; ours
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-restricted-memory-tdx.h"
#include "qapi/visitor.h"
#include "qom/object_interfaces.h"
#include "system/tcg.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/x86/hooks-x86.h"
#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/profiles/base64.h"
#include "hw/restricted-memory/profiles/service.h"
#include "hw/restricted-memory/profiles/x86.h"
#include "hw/restricted-memory/profiles/tdx/call.h"
#include "hw/restricted-memory/profiles/tdx/launch.h"
#include "hw/restricted-memory/profiles/tdx/memory.h"
#include "hw/restricted-memory/profiles/tdx/query.h"
#include "hw/restricted-memory/profiles/tdx/quote.h"
#include "hw/restricted-memory/profiles/tdx/virtual.h"
#include "hw/restricted-memory/profiles/tdx/vmcall.h"

#define LAST_LEAF           0x23

#define ATTR_SUPPORTED (TDX_ATTR_DEBUG | TDX_ATTR_SEPT_VE_DISABLE | TDX_ATTR_PKS)

static TdxGuest *the_guest;

TdxGuest *tdx_guest(void)
{
    return the_guest;
}

/* Our defaults: -cpu can override them, and check_cpu() checks the result. */
static void set_cpu_defaults(const TdxGuest *tdx)
{
    object_register_sugar_prop(TYPE_X86_CPU, "vendor", CPUID_VENDOR_INTEL,
                               false);
    object_register_sugar_prop(TYPE_X86_CPU, "phys-bits",
                               tdx->gpaw == 52 ? "52" : "48", false);
    object_register_sugar_prop(TYPE_X86_CPU, "min-level", "35", false);
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
    /* The host may look into a debug TD: each of the two implies the other. */
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
    } else if (env->cpuid_level < LAST_LEAF) {
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
 * What -cpu cannot say. CPUID shows 52 address bits in every TD, but page
 * tables have those of GPAW.
 */
static void complete_cpus(const TdxGuest *tdx)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        CPUX86State *env = cpu_env(cpu);

        env_archcpu(env)->phys_bits = tdx->gpaw;
        env->features[FEAT_7_0_EDX] |= CPUID_7_0_EDX_ARCH_CAPABILITIES;
        env->features[FEAT_ARCH_CAPABILITIES] = tdx_arch_capabilities();
    }
}

static bool tdx_machine_done(RestrictedMemory *rm, Error **errp)
{
    tdx_query_init();
    complete_cpus(the_guest);
    return check_cpu(the_guest, errp) && tdx_launch_init(the_guest, errp);
}

static void tdx_complete(UserCreatable *uc, Error **errp)
{
    TdxGuest *tdx = TDX_GUEST(uc);

    if (tdx->gpaw != 48 && tdx->gpaw != 52) {
        error_setg(errp, "gpaw=%u: must be 48 or 52", tdx->gpaw);
    } else if (tdx->attributes & ~ATTR_SUPPORTED) {
        error_setg(errp, "attributes 0x%" PRIx64 " are not emulated",
                   tdx->attributes & ~ATTR_SUPPORTED);
    } else if (tdx->map_gpa_max & (RMEM_PAGE_SIZE - 1)) {
        error_setg(errp, "map-gpa-max is not a multiple of 4 KiB");
    } else {
        restricted_check_timeout("quote-timeout", tdx->quote_timeout, errp);
    }
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

#define HASH_PROPERTY(field)                                                \
    static char *get_##field(Object *obj, Error **errp)                     \
    {                                                                       \
        return hash_get(TDX_GUEST(obj)->field);                             \
    }                                                                       \
    static void set_##field(Object *obj, const char *value, Error **errp)   \
    {                                                                       \
        restricted_base64_decode(value, #field, TDX_GUEST(obj)->field,      \
                                 TDX_HASH_BYTES, errp);                     \
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
    restricted_visit_socket(v, name, TDX_GUEST(obj)->quote_address, errp);
}

static void set_socket(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    restricted_take_socket(v, name, &TDX_GUEST(obj)->quote_address, errp);
}

static void tdx_instance_init(Object *obj)
{
    TdxGuest *tdx = TDX_GUEST(obj);

    tdx->attributes = TDX_ATTR_SEPT_VE_DISABLE;
    tdx->gpaw = 48;
    tdx->quote_timeout = 30;
    restricted_lock_init(&tdx->rtmr_lock, "the lock of RTMRs",
                         RESTRICTED_RANK_LEAF);
    object_property_add_uint64_ptr(obj, "attributes", &tdx->attributes,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "gpaw", &tdx->gpaw,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "map-gpa-retry", &tdx->map_gpa_retry,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "quote-timeout", &tdx->quote_timeout,
                                   OBJ_PROP_FLAG_READWRITE);
}

static void tdx_instance_finalize(Object *obj)
{
    TdxGuest *tdx = TDX_GUEST(obj);

    qapi_free_SocketAddress(tdx->quote_address);
    restricted_lock_destroy(&tdx->rtmr_lock);
}

static void tdx_class_init(ObjectClass *oc, CompatClassData *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = tdx_complete;
    compat_forbid_deletion(ucc);
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
    .parent = TYPE_X86_CONFIDENTIAL_GUEST,
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

static const RestrictedX86Ops tdx_x86_ops = {
    .cpuid = tdx_cpuid,
    .hypercall = tdx_hypercall,
    .instruction = tdx_instruction,
    .has_work = tdx_has_work,
    .msr = tdx_msr,
    .intercept = tdx_intercept,
    .exits = tdx_exits,
};

const RestrictedProfile restricted_profile_tdx = {
    .name = "tdx",
    .devices_load = true,
    .hides_state = true,
    .arch_ops = &tdx_x86_ops,
    .attach = tdx_attach,
    .machine_done = tdx_machine_done,
    .launch = tdx_launch,
    .unfinished = tdx_unfinished,
    .forget_requests = tdx_forget_requests,
    .view_bit = tdx_view_bit,
    .alias = tdx_alias,
    .fault = tdx_fault,
    .mmio = tdx_mmio,
};
