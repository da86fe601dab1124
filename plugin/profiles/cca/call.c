/*
 * CCA: the calls that a realm makes by SMC.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/arm/ops.h"
#include "hw/restricted-memory/qemu/launch.h"
#include "hw/restricted-memory/qemu/tlb.h"
#include "hw/restricted-memory/profiles/cca/call.h"
#include "hw/restricted-memory/profiles/cca/memory.h"
#include "hw/restricted-memory/trace.h"

/* RMM, B5.3: SMC64, standard secure service calls */
#define RSI(n)              (0xc4000000 | (n))
#define RSI_1_0             UINT64_C(0x10000)

/* SMCCC, 7; and PSCI (Arm DEN0022), 5.15 */
#define SMCCC_VERSION           0x80000000
#define SMCCC_ARCH_FEATURES     0x80000001
#define PSCI_FEATURES           0x8400000a
#define SMCCC_1_2               0x10002
#define SMCCC_SUCCESS           0
#define SMCCC_NOT_SUPPORTED     (-1)

#define INSN_BYTES              4

/* RMM, B5.3.11. X1: the version that is wanted. X1, X2: what there is. */
static uint64_t version(CcaCall *call)
{
    uint64_t wanted = call->x[1];

    call->x[1] = call->x[2] = RSI_1_0;
    return wanted == RSI_1_0 ? RSI_SUCCESS : RSI_ERROR_INPUT;
}

/* RMM, B5.3.3. No feature register of RSI 1.0 has a bit. */
static uint64_t features(CcaCall *call)
{
    call->x[1] = 0;
    return RSI_SUCCESS;
}

/* RMM, B5.4, RsiRealmConfig */
typedef struct QEMU_PACKED RealmConfig {
    uint64_t ipa_width;
    uint8_t hash_algorithm;
    uint8_t reserved0[0x200 - 9];
    uint8_t personalization[CCA_WORD_BYTES];
    uint8_t reserved1[0x1000 - 0x200 - CCA_WORD_BYTES];
} RealmConfig;

QEMU_BUILD_BUG_ON(sizeof(RealmConfig) != RMEM_PAGE_SIZE);

/* No other vCPU runs. */
static void arm(CPUState *cpu, run_on_cpu_data data)
{
    CcaGuest *cca = data.host_ptr;

    qatomic_set(&cca->armed, true);
    restricted_seal(cca->rm);
    /* The entries of the TLBs were judged without regard to the top bit. */
    restricted_flush();
}

/* RMM, B5.3.9. X1: a granule, protected. It is also what ends the late mode. */
static uint64_t realm_config(CcaCall *call)
{
    CcaGuest *cca = call->cca;
    RealmConfig config = {
        .ipa_width = cpu_to_le64(cca->ipa_bits),
        .hash_algorithm = cca->algorithm,
    };

    if (call->x[1] & (RMEM_PAGE_SIZE - 1)) {
        return RSI_ERROR_INPUT;
    }
    memcpy(config.personalization, cca->personalization, CCA_WORD_BYTES);
    if (!cca_write(call, call->x[1], &config, sizeof(config))) {
        return RSI_ERROR_INPUT;
    }
    if (!qatomic_read(&cca->armed)) {
        async_safe_run_on_cpu(call->cpu, arm, RUN_ON_CPU_HOST_PTR(cca));
    }
    return RSI_SUCCESS;
}

/*
 * RMM, B5.3. All others get SMCCC_NOT_SUPPORTED, as from a monitor that has
 * only RSI 1.0: those of 1.1 and 2.0 (planes, devices) from RSI(0x1a0) on, too.
 */
static const struct {
    uint32_t fid;
    const char *name;
    uint64_t (*call)(CcaCall *call);
} functions[] = {
    { RSI(0x190), "RSI_VERSION", version },
    { RSI(0x191), "RSI_FEATURES", features },
    { RSI(0x192), "RSI_MEASUREMENT_READ", cca_measurement_read },
    { RSI(0x193), "RSI_MEASUREMENT_EXTEND", cca_measurement_extend },
    { RSI(0x194), "RSI_ATTESTATION_TOKEN_INIT", cca_token_init },
    { RSI(0x195), "RSI_ATTESTATION_TOKEN_CONTINUE", cca_token_continue },
    { RSI(0x196), "RSI_REALM_CONFIG", realm_config },
    { RSI(0x197), "RSI_IPA_STATE_SET", cca_ipa_state_set },
    { RSI(0x198), "RSI_IPA_STATE_GET", cca_ipa_state_get },
    { RSI(0x199), "RSI_HOST_CALL", cca_host_call },
};

/*
 * Linux asks for RSI only below SMCCC 1.1 or later, and QEMU's PSCI does not
 * have it. The first line that fits counts; argument 0 fits all.
 */
static const struct {
    uint32_t fid, argument;
    int64_t answer;
} answers[] = {
    { SMCCC_VERSION, 0, SMCCC_1_2 },
    { SMCCC_ARCH_FEATURES, SMCCC_VERSION, SMCCC_SUCCESS },
    { SMCCC_ARCH_FEATURES, SMCCC_ARCH_FEATURES, SMCCC_SUCCESS },
    { SMCCC_ARCH_FEATURES, 0, SMCCC_NOT_SUPPORTED },
    { PSCI_FEATURES, SMCCC_VERSION, SMCCC_SUCCESS },
};

static bool answer(uint64_t *x)
{
    for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
        if (answers[i].fid == (uint32_t)x[0]
            && (!answers[i].argument
                || answers[i].argument == (uint32_t)x[1])) {
            x[0] = answers[i].answer;
            return true;
        }
    }
    return false;
}

/* The CPU has completed the SMC. */
bool cca_call(RestrictedMemory *rm, CPUState *cpu)
{
    CPUARMState *env = cpu_env(cpu);
    CcaCall call = {
        .cca = cca_guest(), .cpu = cpu, .x = env->xregs,
        .pc = env->pc - INSN_BYTES,
    };

    if (!is_a64(env)) {
        return false;
    }
    call.vcpu = &call.cca->vcpus[cpu->cpu_index];
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
        if (functions[i].fid == (uint32_t)call.x[0]) {
            uint64_t x1 = call.x[1], x2 = call.x[2], status;

            restricted_count_call(rm, call.pc);
            status = functions[i].call(&call);
            trace_rmem_rsi(cpu->cpu_index, functions[i].name, x1, x2, status);
            if (status != CCA_DEFERRED) {
                call.x[0] = status;
            }
            return true;
        }
    }
    return answer(call.x);
}
