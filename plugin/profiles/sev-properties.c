/*
 * Properties of sev-guest and sev-snp-guest objects, as an emulated guest
 * takes them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU interface: the objects of target/i386/sev.c, and of ours on them
 *  + property "vc": lazy, or strict: #VC for CPUID, I/O, MSRs, MMIO
 *  + property "c-bit-mismatch": convert, as a KVM host does, or stop
 *  + property "guest-request-socket": who plays the PSP; sev-snp-guest only
 *
 * What is not acted on is refused; sev-device, handle, legacy-vm-type and
 * vcek-disabled are about a host that there is not, and mean nothing.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/qapi-types-restricted-memory.h"
#include "qapi/qapi-visit-sockets.h"
#include "qapi/visitor.h"
#include "qemu/base64.h"
#include "qemu/cutils.h"
#include "sev.h"
#include "target/i386/sev.h"

/* FW, "POLICY": bit 17 has to be one; a single socket is all there is. */
#define SNP_POLICY_RESERVED (UINT64_C(1) << 17)

static bool get_blob(const SevGuest *sev, const char *name, uint8_t *blob,
                     size_t size, Error **errp)
{
    g_autofree char *text = object_property_get_str(sev->object, name, NULL);
    g_autofree uint8_t *bytes = NULL;
    size_t got;

    if (!text || !*text) {
        return true;
    }
    bytes = qbase64_decode(text, -1, &got, errp);
    if (bytes && got != size) {
        error_setg(errp, "%s has %zu bytes, it needs %zu, as base64", name,
                   got, size);
        return false;
    }
    if (bytes) {
        memcpy(blob, bytes, size);
    }
    return bytes != NULL;
}

/* FW, "ID Authentication Information Structure": keys at 0x240 and 0x880 */
static bool get_id(SevGuest *sev, Error **errp)
{
    g_autofree uint8_t *auth = g_malloc0(4096);
    bool author = object_property_get_bool(sev->object, "author-key-enabled",
                                           NULL);
    g_autoptr(GChecksum) id_key = g_checksum_new(G_CHECKSUM_SHA384);
    g_autoptr(GChecksum) author_key = g_checksum_new(G_CHECKSUM_SHA384);
    gsize size = sizeof(sev->id_key_digest);

    if (!get_blob(sev, "id-block", sev->id_block, sizeof(sev->id_block), errp)
        || !get_blob(sev, "id-auth", auth, 4096, errp)) {
        return false;
    }
    if (buffer_is_zero(auth, 4096)) {
        return true;
    }
    g_checksum_update(id_key, auth + 0x240, 0x404);
    g_checksum_get_digest(id_key, sev->id_key_digest, &size);
    if (author) {
        g_checksum_update(author_key, auth + 0x880, 0x404);
        g_checksum_get_digest(author_key, sev->author_key_digest, &size);
    }
    return true;
}

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
    sev->rm->debuggable |= !(sev->policy & SEV_POLICY_NODBG);
    return true;
}

static bool get_snp(SevGuest *sev, Error **errp)
{
    sev->level = SEV_SNP;
    if (refuse_set(sev, "guest-visible-workarounds",
                   "there is no PSP to hand them on", errp)
        || !get_id(sev, errp)
        || !get_blob(sev, "host-data", sev->host_data,
                     sizeof(sev->host_data), errp)) {
        return false;
    }
    if (!(sev->policy & SNP_POLICY_RESERVED)) {
        error_setg(errp, "policy 0x%" PRIx64 " has bit 17 clear: firmware "
                   "refuses that", sev->policy);
        return false;
    }
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
        error_setg(errp, "cbitpos=%" PRIu64 ": it is %d here", cbit,
                   SEV_C_BIT);
        return false;
    }
    if (reduced != 1) {
        error_setg(errp, "reduced-phys-bits=%" PRIu64 ": it is 1 here",
                   reduced);
        return false;
    }
    sev->policy = object_property_get_uint(sev->object, "policy", NULL);
    sev->kernel_hashes = object_property_get_bool(sev->object,
                                                  "kernel-hashes", NULL);
    if (!snp && sev->request_address) {
        error_setg(errp, "guest-request-socket: only a sev-snp-guest makes "
                   "requests");
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
    visit_type_SocketAddress(v, name, &sev_guest()->request_address, errp);
}

static void set_socket(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    SocketAddress *address = NULL;

    if (visit_type_SocketAddress(v, name, &address, errp)) {
        qapi_free_SocketAddress(sev_guest()->request_address);
        sev_guest()->request_address = address;
    }
}

/* A machine has one such guest, so these need no instance. */
void restricted_memory_sev_properties(ObjectClass *oc)
{
    object_class_property_add_enum(oc, "vc", "SevGuestVc", &SevGuestVc_lookup,
                                   get_vc, set_vc);
    object_class_property_add_enum(oc, "c-bit-mismatch", "SevGuestMismatch",
                                   &SevGuestMismatch_lookup, get_mismatch,
                                   set_mismatch);
    object_class_property_add(oc, "guest-request-socket", "SocketAddress",
                              get_socket, set_socket, NULL, NULL);
}
