/*
 * CCA: one RSI call, its registers and its status.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_CCA_CALL_H
#define HW_RESTRICTED_MEMORY_PROFILES_CCA_CALL_H

#include "hw/restricted-memory/profiles/cca/guest.h"

/* RMM, B5.4, RsiCommandReturnCode */
#define RSI_SUCCESS         UINT64_C(0)
#define RSI_ERROR_INPUT     UINT64_C(1)
#define RSI_ERROR_STATE     UINT64_C(2)
#define RSI_INCOMPLETE      UINT64_C(3)
#define RSI_ERROR_UNKNOWN   UINT64_C(4)

/* Queued work finishes the call and writes X0. */
#define CCA_DEFERRED        (UINT64_MAX - 1)

/* RMM, B5.4, RsiRipas */
typedef enum { RSI_EMPTY, RSI_RAM, RSI_DESTROYED } RsiRipas;

/* One call. x: X0 and what follows; pc: the SMC. */
typedef struct CcaCall {
    CcaGuest *cca;
    CcaVcpu *vcpu;
    CPUState *cpu;
    uint64_t *x;
    uint64_t pc;
} CcaCall;

/* Each returns X0, or CCA_DEFERRED. BQL. */

/* ripas.c */
uint64_t cca_ipa_state_set(CcaCall *call);
uint64_t cca_ipa_state_get(CcaCall *call);

/* measure.c */
uint64_t cca_measurement_read(CcaCall *call);
uint64_t cca_measurement_extend(CcaCall *call);

/* token.c */
uint64_t cca_token_init(CcaCall *call);
uint64_t cca_token_continue(CcaCall *call);

/* host-call.c */
uint64_t cca_host_call(CcaCall *call);

/* call.c: RestrictedArmOps.call */
bool cca_call(RestrictedMemory *rm, CPUState *cpu);

#endif
