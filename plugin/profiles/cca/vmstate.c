/*
 * CCA: state of a realm beside its memory, for a handover to another QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "migration/vmstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/profiles/cca/launch.h"

const char *cca_unfinished(RestrictedMemory *rm)
{
    const CcaGuest *cca = cca_guest();

    for (uint32_t i = 0; i < cca->nvcpus; i++) {
        if (cca->vcpus[i].token.is_awaited) {
            return "an attestation token is being made for the guest";
        }
    }
    return NULL;
}

static int cca_pre_save(void *opaque)
{
    CcaGuest *cca = opaque;
    const char *waits_for = cca_unfinished(cca->rm);

    if (waits_for) {
        error_report("%s and would be lost: try again when it is there",
                     waits_for);
        return -EBUSY;
    }
    cca_measure(cca);
    return 0;
}

static int cca_post_load(void *opaque, int version_id)
{
    cca_forget_image(opaque);
    return 0;
}

/* The stream is input. */
static int token_post_load(void *opaque, int version_id)
{
    const CcaToken *token = opaque;

    return token->size <= CCA_TOKEN_MAX && token->sent <= token->size
           ? 0 : -EINVAL;
}

static const VMStateDescription vmstate_token = {
    .name = "rme-guest/token",
    .version_id = 1,
    .minimum_version_id = 1,
    .post_load = token_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_BOOL(in_progress, CcaToken),
        VMSTATE_UINT32(size, CcaToken),
        VMSTATE_UINT32(sent, CcaToken),
        VMSTATE_UINT8_ARRAY(bytes, CcaToken, CCA_TOKEN_MAX),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_vcpu = {
    .name = "rme-guest/vcpu",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_STRUCT(token, CcaVcpu, 1, vmstate_token, CcaToken),
        VMSTATE_UINT64(ripas_base, CcaVcpu),
        VMSTATE_UINT32(ripas_retries, CcaVcpu),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_cca = {
    .name = TYPE_RME_GUEST,
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = cca_pre_save,
    .post_load = cca_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32_EQUAL(ipa_bits, CcaGuest),
        VMSTATE_UINT32_EQUAL(nvcpus, CcaGuest),
        VMSTATE_BOOL(armed, CcaGuest),
        VMSTATE_STRUCT_VARRAY_POINTER_UINT32(vcpus, CcaGuest, nvcpus,
                                             vmstate_vcpu, CcaVcpu),
        VMSTATE_UINT8_2DARRAY(measurements, CcaGuest, CCA_MEASUREMENTS,
                              CCA_WORD_BYTES),
        VMSTATE_END_OF_LIST()
    },
};

void cca_vmstate_init(CcaGuest *cca)
{
    vmstate_register_any(NULL, &vmstate_cca, cca);
}
