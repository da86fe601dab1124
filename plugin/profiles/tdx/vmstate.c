/*
 * TDX: state of a TD beside its memory, for a handover to another QEMU.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "migration/vmstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/profiles/tdx/launch.h"

const char *tdx_unfinished(RestrictedMemory *rm)
{
    return qatomic_read(&tdx_guest()->quotes_in_flight)
           ? "a quote is being made for the guest" : NULL;
}

static int tdx_pre_save(void *opaque)
{
    TdxGuest *tdx = opaque;
    const char *waits_for = tdx_unfinished(tdx->rm);

    if (waits_for) {
        error_report("%s and would be lost: try again when it is there",
                     waits_for);
        return -EBUSY;
    }
    return 0;
}

static const VMStateDescription vmstate_ve = {
    .name = "tdx-guest/ve",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(reason, TdxVeInfo),
        VMSTATE_UINT64(qualification, TdxVeInfo),
        VMSTATE_UINT64(gla, TdxVeInfo),
        VMSTATE_UINT64(gpa, TdxVeInfo),
        VMSTATE_UINT32(length, TdxVeInfo),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_vcpu = {
    .name = "tdx-guest/vcpu",
    .version_id = 3,
    .minimum_version_id = 3,
    .fields = (const VMStateField[]) {
        VMSTATE_STRUCT(ve, TdxVcpu, 1, vmstate_ve, TdxVeInfo),
        VMSTATE_BOOL(ve_valid, TdxVcpu),
        VMSTATE_BOOL(halt_wakes, TdxVcpu),
        VMSTATE_UINT64(halt_eip, TdxVcpu),
        VMSTATE_UINT64(cpuid_ve, TdxVcpu),
        VMSTATE_UINT64_ARRAY(host_msrs.stored, TdxVcpu, RESTRICTED_STORED_MSRS),
        VMSTATE_UINT64(map_gpa, TdxVcpu),
        VMSTATE_UINT32(map_retries, TdxVcpu),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_tdx = {
    .name = TYPE_TDX_GUEST,
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = tdx_pre_save,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64_EQUAL(attributes, TdxGuest),
        VMSTATE_UINT32_EQUAL(gpaw, TdxGuest),
        VMSTATE_UINT32_EQUAL(nvcpus, TdxGuest),
        VMSTATE_UINT32_EQUAL(leaf_bytes, TdxGuest),
        VMSTATE_BOOL(armed, TdxGuest),
        VMSTATE_STRUCT_VARRAY_POINTER_UINT32(vcpus, TdxGuest, nvcpus,
                                             vmstate_vcpu, TdxVcpu),
        VMSTATE_VBUFFER_UINT32(leaf, TdxGuest, 0, NULL, leaf_bytes),
        VMSTATE_UINT64(td_ctls, TdxGuest),
        VMSTATE_UINT64(notify_enables, TdxGuest),
        VMSTATE_UINT8_ARRAY(mrtd, TdxGuest, TDX_HASH_BYTES),
        VMSTATE_UINT8_2DARRAY(rtmr, TdxGuest, TDX_RTMRS, TDX_HASH_BYTES),
        VMSTATE_UINT32(notify_vector, TdxGuest),
        VMSTATE_UINT32(notify_apic, TdxGuest),
        VMSTATE_END_OF_LIST()
    },
};

void tdx_vmstate_init(TdxGuest *tdx)
{
    vmstate_register_any(NULL, &vmstate_tdx, tdx);
}
