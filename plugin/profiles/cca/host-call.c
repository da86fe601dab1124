/*
 * CCA: calls of a realm to its host.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * RMM, A4.5 and B5.3.4. What they mean is between realm and host. KVM takes one
 * for a call of SMCCC and answers what it does not know with
 * SMCCC_NOT_SUPPORTED in the first register; so do we, and the call is an event
 * for whoever scripts the host.
 */

#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "qapi/qapi-events-restricted-memory-cca.h"
#include "hw/restricted-memory/profiles/cca/memory.h"

/* RMM, B5.4, RsiHostCall */
#define HOST_CALL_BYTES     256
#define HOST_CALL_GPRS      31

typedef struct QEMU_PACKED HostCall {
    uint16_t immediate;
    uint8_t reserved[6];
    uint64_t gprs[HOST_CALL_GPRS];
} HostCall;

QEMU_BUILD_BUG_ON(sizeof(HostCall) != HOST_CALL_BYTES);

#define NOT_SUPPORTED       (-1)

/* A guest may call as often as it likes. */
#define INTERVAL_MS         10

static void tell(CcaCall *call, const HostCall *host_call)
{
    CcaGuest *cca = call->cca;
    int64_t now_ms = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    g_autoptr(uint64List) registers = NULL;

    if (now_ms < cca->host_call_ms) {
        cca->host_calls_untold++;
        return;
    }
    cca->host_call_ms = now_ms + INTERVAL_MS;
    for (int i = HOST_CALL_GPRS - 1; i >= 0; i--) {
        QAPI_LIST_PREPEND(registers, le64_to_cpu(host_call->gprs[i]));
    }
    qapi_event_send_restricted_memory_host_call(
        object_get_canonical_path_component(OBJECT(cca->rm)),
        call->cpu->cpu_index, le16_to_cpu(host_call->immediate), registers,
        cca->host_calls_untold);
    cca->host_calls_untold = 0;
}

/* X1: the call's registers, in memory. */
uint64_t cca_host_call(CcaCall *call)
{
    uint64_t ipa = call->x[1];
    HostCall host_call;

    if (ipa & (HOST_CALL_BYTES - 1)
        || !cca_read(call, ipa, &host_call, sizeof(host_call))) {
        return RSI_ERROR_INPUT;
    }
    tell(call, &host_call);
    host_call.gprs[0] = cpu_to_le64(NOT_SUPPORTED);
    return cca_write(call, ipa, &host_call, sizeof(host_call))
           ? RSI_SUCCESS : RSI_ERROR_INPUT;
}
