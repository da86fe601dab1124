/*
 * rme-guest: an emulated realm, with the properties that upstream plans for a
 * real one.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU interface:
 *  + property "personalization-value": 64 bytes, base64
 *  + property "measurement-algorithm": sha256 or sha512
 *  + property "attestation-token-socket": the service that makes tokens;
 *    "token-timeout": how many seconds it may take; both ours
 *  + property "ripas-max": bytes that an RSI_IPA_STATE_SET changes before the
 *    guest has to call again, 0 for all; "ripas-retry": how often it has to
 *    call again before anything is done; "ripas-refuse": refuse all; ours
 *
 * A realm that starts without firmware is protected from its first instruction.
 * Firmware does not know RSI: then RAM is unprotected until the first
 * RSI_REALM_CONFIG, which is a kernel's (late mode).
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qom/object_interfaces.h"
#include "system/tcg.h"
#include "hw/arm/virt.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/launch.h"
#include "hw/restricted-memory/qemu/arm/ops.h"
#include "hw/restricted-memory/profiles/arm.h"
#include "hw/restricted-memory/profiles/base64.h"
#include "hw/restricted-memory/profiles/cca/call.h"
#include "hw/restricted-memory/profiles/cca/launch.h"
#include "hw/restricted-memory/profiles/cca/memory.h"

/* Up to here, bits of an address are the same as in a page-table entry. */
#define IPA_BITS_MAX 48

static CcaGuest *the_guest;

CcaGuest *cca_guest(void)
{
    return the_guest;
}

static bool cca_attach(RestrictedMemory *rm, Error **errp)
{
    ConfidentialGuestSupport *cgs = current_machine->cgs;
    CcaGuest *cca = (CcaGuest *)object_dynamic_cast(OBJECT(cgs),
                                                    TYPE_RME_GUEST);

    if (!cca) {
        error_setg(errp, "profile=cca needs a realm: say -object rme-guest,"
                   "id=rme0 -machine confidential-guest-support=rme0");
        return false;
    }
    if (!tcg_enabled()) {
        error_setg(errp, "this rme-guest is emulated: it needs -accel tcg");
        return false;
    }
    if (!restricted_is_split(rm)) {
        error_setg(errp, "profile=cca needs layout=split: private and shared "
                   "memory of a realm are different memory");
        return false;
    }
    if (!object_dynamic_cast(OBJECT(current_machine), TYPE_VIRT_MACHINE)) {
        error_setg(errp, "a realm needs -machine virt");
        return false;
    }
    /* A seed in the device tree would give each launch another measurement. */
    object_property_set_bool(OBJECT(current_machine), "dtb-randomness", false,
                             &error_abort);
    cca->rm = rm;
    the_guest = cca;
    cgs->ready = true;
    return true;
}

/* The bit that tells the two kinds of address apart is above all others. */
static int cca_pa_bits(RestrictedMemory *rm, int bits)
{
    the_guest->ipa_bits = MIN(bits, IPA_BITS_MAX);
    return the_guest->ipa_bits - 1;
}

static bool cca_machine_done(RestrictedMemory *rm, Error **errp)
{
    CcaGuest *cca = the_guest;

    if (!arm_feature(cpu_env(first_cpu), ARM_FEATURE_AARCH64)) {
        error_setg(errp, "a realm's CPU has 64 bits");
        return false;
    }
    cca->late = restricted_has_firmware();
    cca->nvcpus = current_machine->smp.max_cpus;
    cca->vcpus = g_new0(CcaVcpu, cca->nvcpus);
    cca_vmstate_init(cca);
    return true;
}

/* After ROMs were loaded. */
static void cca_launch(RestrictedMemory *rm)
{
    CcaGuest *cca = the_guest;

    cca_forget_tokens(cca);
    for (uint32_t i = 0; i < cca->nvcpus; i++) {
        cca->vcpus[i].ripas_base = 0;
        cca->vcpus[i].ripas_retries = 0;
    }
    cca_measure_launch(cca);
    qatomic_set(&cca->armed, !cca->late);
    if (!cca->late) {
        restricted_seal(rm);
    }
}

static void cca_forget_requests(RestrictedMemory *rm)
{
    cca_forget_tokens(the_guest);
}

static bool cca_is_late(const RestrictedMemory *rm)
{
    return the_guest->late;
}

static void cca_complete(UserCreatable *uc, Error **errp)
{
    CcaGuest *cca = RME_GUEST(uc);

    if (cca->ripas_max & (RMEM_PAGE_SIZE - 1)) {
        error_setg(errp, "ripas-max is not a multiple of 4 KiB");
    } else {
        restricted_check_timeout("token-timeout", cca->token_timeout, errp);
    }
}

static char *get_personalization(Object *obj, Error **errp)
{
    return g_base64_encode(RME_GUEST(obj)->personalization, CCA_WORD_BYTES);
}

static void set_personalization(Object *obj, const char *value, Error **errp)
{
    restricted_base64_decode(value, "personalization-value",
                             RME_GUEST(obj)->personalization, CCA_WORD_BYTES,
                             errp);
}

static int get_algorithm(Object *obj, Error **errp)
{
    return RME_GUEST(obj)->algorithm;
}

static void set_algorithm(Object *obj, int value, Error **errp)
{
    RME_GUEST(obj)->algorithm = value;
}

static bool get_ripas_refuse(Object *obj, Error **errp)
{
    return RME_GUEST(obj)->ripas_refuse;
}

static void set_ripas_refuse(Object *obj, bool value, Error **errp)
{
    RME_GUEST(obj)->ripas_refuse = value;
}

static void visit_ripas_max(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    visit_type_size(v, name, &RME_GUEST(obj)->ripas_max, errp);
}

static void get_socket(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    restricted_visit_socket(v, name, RME_GUEST(obj)->token_address, errp);
}

static void set_socket(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    restricted_take_socket(v, name, &RME_GUEST(obj)->token_address, errp);
}

static void cca_instance_init(Object *obj)
{
    CcaGuest *cca = RME_GUEST(obj);

    cca->algorithm = RME_GUEST_MEASUREMENT_ALGORITHM_SHA512;
    cca->token_timeout = 30;
    object_property_add_uint32_ptr(obj, "ripas-retry", &cca->ripas_retry,
                                   OBJ_PROP_FLAG_READWRITE);
    object_property_add_uint32_ptr(obj, "token-timeout", &cca->token_timeout,
                                   OBJ_PROP_FLAG_READWRITE);
}

static void cca_instance_finalize(Object *obj)
{
    qapi_free_SocketAddress(RME_GUEST(obj)->token_address);
}

static void cca_class_init(ObjectClass *oc, CompatClassData *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = cca_complete;
    compat_forbid_deletion(ucc);
    object_class_property_add_str(oc, "personalization-value",
                                  get_personalization, set_personalization);
    object_class_property_add_enum(oc, "measurement-algorithm",
                                   "RmeGuestMeasurementAlgorithm",
                                   &RmeGuestMeasurementAlgorithm_lookup,
                                   get_algorithm, set_algorithm);
    object_class_property_add(oc, "attestation-token-socket", "SocketAddress",
                              get_socket, set_socket, NULL, NULL);
    object_class_property_add(oc, "ripas-max", "size", visit_ripas_max,
                              visit_ripas_max, NULL, NULL);
    object_class_property_add_bool(oc, "ripas-refuse", get_ripas_refuse,
                                   set_ripas_refuse);
}

static const TypeInfo cca_info = {
    .name = TYPE_RME_GUEST,
    .parent = TYPE_CONFIDENTIAL_GUEST_SUPPORT,
    .instance_size = sizeof(CcaGuest),
    .instance_init = cca_instance_init,
    .instance_finalize = cca_instance_finalize,
    .class_init = cca_class_init,
    .interfaces = (InterfaceInfo[]) { { TYPE_USER_CREATABLE }, { } },
};

static void cca_register_types(void)
{
    type_register_static(&cca_info);
}

type_init(cca_register_types)

static const RestrictedArmOps cca_arm_ops = {
    .calls_by_smc = true,
    .call = cca_call,
    .pa_bits = cca_pa_bits,
};

const RestrictedProfile restricted_profile_cca = {
    .name = "cca",
    .devices_load = true,
    .hides_state = true,
    .poison_is_fault = true,
    .arch_ops = &cca_arm_ops,
    .attach = cca_attach,
    .machine_done = cca_machine_done,
    .launch = cca_launch,
    .unfinished = cca_unfinished,
    .forget_requests = cca_forget_requests,
    .device_bit = cca_device_bit,
    .is_late = cca_is_late,
    .alias = cca_alias,
    .fault = cca_fault,
    .mmio = cca_mmio,
};
