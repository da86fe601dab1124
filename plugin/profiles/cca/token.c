/*
 * CCA: attestation tokens, made by a service.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * RMM, A7.2, B5.3.1 and B5.3.2. Each vCPU asks for its own token and fetches it
 * in pieces; until the service has answered a piece is empty, and the guest
 * calls again. The service gets CcaClaims, and answers with the token. Without
 * a service the guest gets a token that is plainly fake.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/error-report.h"
#include "hw/restricted-memory/profiles/cca/launch.h"
#include "hw/restricted-memory/profiles/cca/memory.h"
#include "hw/restricted-memory/profiles/cca/token.h"

static void token_arrived(void *opaque, const RestrictedFrame *frame,
                          bool was_connected)
{
    CcaToken *token = opaque;

    token->is_awaited = false;
    if (frame && frame->size) {
        token->size = frame->size;      /* CCA_TOKEN_MAX at most: see ask() */
        memcpy(token->bytes, frame->data, frame->size);
    }
}

static void ask(CcaGuest *cca, CcaVcpu *vcpu, const CcaClaims *claims)
{
    if (!vcpu->service) {
        vcpu->service = restricted_service_new("attestation token service",
                                               cca->token_address,
                                               cca->token_timeout,
                                               CCA_TOKEN_MAX);
    }
    vcpu->token.is_awaited = true;
    restricted_service_ask(vcpu->service, claims, sizeof(*claims),
                           token_arrived, &vcpu->token);
}

static void forget(CcaVcpu *vcpu)
{
    if (vcpu->service) {
        restricted_service_reset(vcpu->service);
    }
    memset(&vcpu->token, 0, sizeof(vcpu->token));
}

void cca_forget_tokens(CcaGuest *cca)
{
    for (uint32_t i = 0; i < cca->nvcpus; i++) {
        forget(&cca->vcpus[i]);
    }
}

/* X1 to X8: a challenge. Out: X1 how many bytes there will be at most. */
uint64_t cca_token_init(CcaCall *call)
{
    CcaGuest *cca = call->cca;
    CcaToken *token = &call->vcpu->token;
    CcaClaims claims = {
        .length = cpu_to_be32(sizeof(claims) - sizeof(claims.length)),
        .algorithm = cca->algorithm,
    };

    forget(call->vcpu);
    cca_measure(cca);
    memcpy(claims.magic, CCA_CLAIMS_MAGIC, sizeof(claims.magic));
    for (int i = 0; i < CCA_WORD_BYTES / 8; i++) {
        stq_le_p(claims.challenge + 8 * i, call->x[1 + i]);
    }
    memcpy(claims.personalization, cca->personalization, CCA_WORD_BYTES);
    memcpy(claims.measurements, cca->measurements, sizeof(claims.measurements));
    token->in_progress = true;
    if (cca->token_address) {
        ask(cca, call->vcpu, &claims);
    } else {
        token->size = cca_fake_token(&claims, token->bytes);
    }
    call->x[1] = CCA_TOKEN_MAX;
    return RSI_SUCCESS;
}

static uint64_t finish(CcaToken *token, uint64_t status)
{
    token->in_progress = false;
    return status;
}

/* X1 granule, X2 offset in it, X3 bytes there. Out: X1 bytes written. */
uint64_t cca_token_continue(CcaCall *call)
{
    CcaToken *token = &call->vcpu->token;
    uint64_t ipa = call->x[1], offset = call->x[2], size = call->x[3];

    call->x[1] = 0;
    if (ipa & (RMEM_PAGE_SIZE - 1) || offset >= RMEM_PAGE_SIZE
        || size > RMEM_PAGE_SIZE - offset) {
        return RSI_ERROR_INPUT;
    }
    if (!token->in_progress) {
        return RSI_ERROR_STATE;
    }
    if (token->is_awaited) {
        return RSI_INCOMPLETE;
    }
    if (!token->size) {
        return finish(token, RSI_ERROR_UNKNOWN);
    }
    size = MIN(size, token->size - token->sent);
    if (!cca_write(call, ipa + offset, token->bytes + token->sent, size)) {
        return RSI_ERROR_INPUT;
    }
    token->sent += size;
    call->x[1] = size;
    return token->sent < token->size ? RSI_INCOMPLETE
                                     : finish(token, RSI_SUCCESS);
}
