/*
 * SEV: state of a guest beside its memory, for checkpoints and handovers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A parked CPU is saved as it is in memory, so both sides must be the same build:
 * its size is compared. Its breakpoints are this process's: it has none, because
 * DR7 of an ES guest is the host's while the CPU is parked.
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "migration/vmstate.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/profiles/sev/vmstate.h"

#define PARKED_BYTES offsetof(CPUX86State, end_reset_fields)

/* The section: the guest, and what of it is no field of a fixed size. */
typedef struct SevState {
    SevGuest *sev;
    uint32_t cpus;
    SevVcpu *vcpus;
    uint32_t split_bytes;
    uint8_t *split;
    uint32_t parked_bytes;
    uint32_t vmsas;
    uint64_t *vmsa;             /* pages that are VMSAs */
} SevState;

static SevState state;

static bool parked_needed(void *opaque)
{
    return ((SevVcpu *)opaque)->parked;
}

static int parked_pre_load(void *opaque)
{
    ((SevVcpu *)opaque)->parked = g_new0(CPUX86State, 1);
    return 0;
}

static int parked_post_load(void *opaque, int version)
{
    CPUX86State *parked = ((SevVcpu *)opaque)->parked;

    memset(parked->cpu_breakpoint, 0, sizeof(parked->cpu_breakpoint));
    return 0;
}

static const VMStateDescription vmstate_parked = {
    .name = "sev-guest/vcpu/parked",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = parked_needed,
    .pre_load = parked_pre_load,
    .post_load = parked_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_BUFFER_POINTER_UNSAFE(parked, SevVcpu, 1, PARKED_BYTES),
        VMSTATE_END_OF_LIST()
    },
};

/* Without a subsection it is not parked. */
static int vcpu_pre_load(void *opaque)
{
    SevVcpu *vcpu = opaque;

    g_clear_pointer(&vcpu->parked, g_free);
    return 0;
}

static const VMStateDescription vmstate_vcpu = {
    .name = "sev-guest/vcpu",
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_load = vcpu_pre_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(ghcb, SevVcpu),
        VMSTATE_UINT64(registered, SevVcpu),
        VMSTATE_BOOL(started, SevVcpu),
        VMSTATE_BOOL(parked_by_msr, SevVcpu),
        VMSTATE_UINT64_ARRAY(host_msrs.stored, SevVcpu, RESTRICTED_STORED_MSRS),
        VMSTATE_END_OF_LIST()
    },
    .subsections = (const VMStateDescription * const []) {
        &vmstate_parked,
        NULL
    },
};

static const VMStateDescription vmstate_memory = {
    .name = "sev-guest/memory",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(noise, RestrictedMemory),
        VMSTATE_END_OF_LIST()
    },
};

static const VMStateDescription vmstate_guest = {
    .name = "sev-guest/guest",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64_EQUAL(policy, SevGuest),
        VMSTATE_STRUCT_POINTER(rm, SevGuest, vmstate_memory, RestrictedMemory),
        VMSTATE_BOOL(armed, SevGuest),
        VMSTATE_BOOL(counts_mapping, SevGuest),
        VMSTATE_UINT64(jump_table, SevGuest),
        VMSTATE_UINT8_2DARRAY(vmpck, SevGuest, 4, 32),
        VMSTATE_UINT8_ARRAY(measurement, SevGuest, SHA384_BYTES),
        VMSTATE_UINT8_ARRAY(report_id, SevGuest, 32),
        VMSTATE_END_OF_LIST()
    },
};

const char *sev_unfinished(RestrictedMemory *rm)
{
    for (unsigned i = 0; i < state.cpus; i++) {
        if (state.vcpus[i].request) {
            return "a request of the guest is being answered";
        }
    }
    return NULL;
}

static int sev_pre_save(void *opaque)
{
    SevState *s = opaque;
    const char *waits_for = sev_unfinished(s->sev->rm);
    GHashTableIter iter;
    gpointer page;
    unsigned n = 0;

    if (waits_for) {
        error_report("%s and would be lost: try again when it is there",
                     waits_for);
        return -EBUSY;
    }
    s->vmsas = g_hash_table_size(s->sev->vmsas);
    s->vmsa = g_renew(uint64_t, s->vmsa, s->vmsas);
    g_hash_table_iter_init(&iter, s->sev->vmsas);
    while (g_hash_table_iter_next(&iter, &page, NULL)) {
        s->vmsa[n++] = GPOINTER_TO_SIZE(page);
    }
    return 0;
}

static int sev_post_load(void *opaque, int version)
{
    SevState *s = opaque;

    g_hash_table_remove_all(s->sev->vmsas);
    for (unsigned i = 0; i < s->vmsas; i++) {
        g_hash_table_add(s->sev->vmsas, GSIZE_TO_POINTER(s->vmsa[i]));
    }
    return 0;
}

/* The array is allocated for the load. */
static int sev_pre_load(void *opaque)
{
    SevState *s = opaque;

    g_clear_pointer(&s->vmsa, g_free);
    return 0;
}

static const VMStateDescription vmstate_sev = {
    .name = "sev-guest",
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = sev_pre_save,
    .pre_load = sev_pre_load,
    .post_load = sev_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32_EQUAL(cpus, SevState),
        VMSTATE_UINT32_EQUAL(split_bytes, SevState),
        VMSTATE_UINT32_EQUAL(parked_bytes, SevState),
        VMSTATE_STRUCT_POINTER(sev, SevState, vmstate_guest, SevGuest),
        VMSTATE_STRUCT_VARRAY_POINTER_UINT32(vcpus, SevState, cpus,
                                             vmstate_vcpu, SevVcpu),
        VMSTATE_VBUFFER_UINT32(split, SevState, 0, NULL, split_bytes),
        VMSTATE_UINT32(vmsas, SevState),
        VMSTATE_VARRAY_UINT32_ALLOC(vmsa, SevState, vmsas, 0,
                                    vmstate_info_uint64, uint64_t),
        VMSTATE_END_OF_LIST()
    },
};

void sev_vmstate_init(SevGuest *sev)
{
    state = (SevState){
        .sev = sev, .cpus = MACHINE(qdev_get_machine())->smp.max_cpus,
        .vcpus = sev->vcpus, .split = sev->split,
        .split_bytes = DIV_ROUND_UP(sev->rm->core.pages, RESTRICTED_PAGES_2M),
        .parked_bytes = PARKED_BYTES,
    };
    vmstate_register_any(NULL, &vmstate_sev, &state);
}
