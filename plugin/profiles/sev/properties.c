/*
 * Properties of sev-guest and sev-snp-guest objects, for an emulated guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU interface: the objects of target/i386/sev.c, with more properties:
 *  + property "vc": lazy, or strict: #VC for CPUID, I/O, MSRs, MMIO
 *  + property "c-bit-mismatch": convert, as a KVM host does, or stop
 *  + property "guest-request-socket": the service that plays the PSP;
 *    sev-snp-guest only
 *  + property "certs-path": a file with the certificates that an extended
 *    request returns, as the guest gets them; sev-snp-guest only
 *
 * A property without effect is refused. sev-device, handle, legacy-vm-type and
 * vcek-disabled describe a host that does not exist here, and are ignored.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-restricted-memory-sev.h"
#include "qapi/visitor.h"
#include "qemu/cutils.h"
#include "hw/restricted-memory/qemu/x86/hooks-x86.h"
#include "hw/restricted-memory/profiles/service.h"
#include "hw/restricted-memory/profiles/sev/certificates.h"
#include "hw/restricted-memory/profiles/sev/id-block.h"
#include "target/i386/sev.h"

/* FW, "POLICY": bit 17 must be one. */
#define SNP_POLICY_RESERVED (UINT64_C(1) << 17)

static bool refuse_set(const SevGuest *sev, const char *name,
                       const char *reason, Error **errp)
{
    g_autofree char *text = object_property_get_str(sev->object, name, NULL);

    if (text && *text) {
        error_setg(errp, "%s cannot be used here: %s", name, reason);
        return true;
    }
    return false;
}

static bool get_plain(SevGuest *sev, Error **errp)
{
    if (refuse_set(sev, "dh-cert-file", "there is no PSP to agree a key with",
                   errp)
        || refuse_set(sev, "session-file",
                      "there is no PSP to agree a key with", errp)) {
        return false;
    }
    sev->level = sev->policy & SEV_POLICY_ES ? SEV_ES : SEV_PLAIN;
    /* Each of the two implies the other. */
    sev->policy &= ~(sev->rm->debuggable ? SEV_POLICY_NODBG : UINT64_C(0));
    sev->rm->debuggable |= !(sev->policy & SEV_POLICY_NODBG);
    return true;
}

static bool get_snp(SevGuest *sev, Error **errp)
{
    sev->level = SEV_SNP;
    if (refuse_set(sev, "guest-visible-workarounds",
                   "there is no PSP to hand them on", errp)
        || !sev_id_get(sev, errp)
        || !sev_certificates_get(sev, errp)
        || !sev_get_blob(sev, "host-data", sev->host_data,
                         sizeof(sev->host_data), errp)) {
        return false;
    }
    if (!(sev->policy & SNP_POLICY_RESERVED)) {
        error_setg(errp, "policy 0x%" PRIx64 " has bit 17 clear: firmware "
                   "refuses that", sev->policy);
        return false;
    }
    /* Each of the two implies the other. */
    sev->policy |= sev->rm->debuggable ? SEV_SNP_POLICY_DBG : 0;
    sev->rm->debuggable |= (sev->policy & SEV_SNP_POLICY_DBG) != 0;
    return true;
}

bool sev_get_properties(SevGuest *sev, Error **errp)
{
    bool snp = object_dynamic_cast(sev->object, TYPE_SEV_SNP_GUEST);
    uint64_t cbit = object_property_get_uint(sev->object, "cbitpos", NULL);
    uint64_t reduced = object_property_get_uint(sev->object,
                                                "reduced-phys-bits", NULL);

    if (cbit != SEV_C_BIT) {
        error_setg(errp, "cbitpos=%" PRIu64 ": must be %d", cbit,
                   SEV_C_BIT);
        return false;
    }
    if (reduced != 1) {
        error_setg(errp, "reduced-phys-bits=%" PRIu64 ": must be 1",
                   reduced);
        return false;
    }
    sev->policy = object_property_get_uint(sev->object, "policy", NULL);
    sev->kernel_hashes = object_property_get_bool(sev->object,
                                                  "kernel-hashes", NULL);
    if (!snp && (sev->request_address || sev->certs_path)) {
        error_setg(errp, "guest-request-socket, certs-path: only a "
                   "sev-snp-guest makes requests");
        return false;
    }
    return snp ? get_snp(sev, errp) : get_plain(sev, errp);
}

static int get_vc(Object *obj, Error **errp)
{
    return sev_guest()->strict ? SEV_GUEST_VC_STRICT : SEV_GUEST_VC_LAZY;
}

static void set_vc(Object *obj, int value, Error **errp)
{
    sev_guest()->strict = value == SEV_GUEST_VC_STRICT;
}

static int get_mismatch(Object *obj, Error **errp)
{
    return sev_guest()->stop_on_mismatch ? SEV_GUEST_MISMATCH_STOP
                                      : SEV_GUEST_MISMATCH_CONVERT;
}

static void set_mismatch(Object *obj, int value, Error **errp)
{
    sev_guest()->stop_on_mismatch = value == SEV_GUEST_MISMATCH_STOP;
}

static void get_socket(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    restricted_visit_socket(v, name, sev_guest()->request_address, errp);
}

static void set_socket(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    restricted_take_socket(v, name, &sev_guest()->request_address, errp);
}

static char *get_certs_path(Object *obj, Error **errp)
{
    return g_strdup(sev_guest()->certs_path);
}

static void set_certs_path(Object *obj, const char *value, Error **errp)
{
    g_free(sev_guest()->certs_path);
    sev_guest()->certs_path = g_strdup(value);
}

/* A machine has only one such guest, so these use no instance. */
void restricted_memory_sev_properties(ObjectClass *oc)
{
    object_class_property_add_enum(oc, "vc", "SevGuestVc", &SevGuestVc_lookup,
                                   get_vc, set_vc);
    object_class_property_add_enum(oc, "c-bit-mismatch", "SevGuestMismatch",
                                   &SevGuestMismatch_lookup, get_mismatch,
                                   set_mismatch);
    object_class_property_add(oc, "guest-request-socket", "SocketAddress",
                              get_socket, set_socket, NULL, NULL);
    object_class_property_add_str(oc, "certs-path", get_certs_path,
                                  set_certs_path);
}
