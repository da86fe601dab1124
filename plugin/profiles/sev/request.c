/*
 * SEV-SNP: guest requests, answered over a socket.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCB, "SNP Guest Request" and "SNP Extended Guest Request". The request page
 * is encrypted with a key of the secrets page (FW, SNP_GUEST_REQUEST). The
 * service behind the socket is told the keys and plays the PSP, so there is no
 * cryptography here. The fields of its messages are little-endian.
 *
 * The guest waits, as it does for the PSP: its vCPU halts before the VMGEXIT.
 * An interrupt may run meanwhile, and the VMGEXIT then executes again. So does
 * it when the answer has come, and takes it.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "hw/core/cpu.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/profiles/service.h"
#include "hw/restricted-memory/profiles/sev/certificates.h"
#include "hw/restricted-memory/profiles/sev/exits.h"
#include "hw/restricted-memory/profiles/sev/id-block.h"
#include "hw/restricted-memory/profiles/sev/request.h"
#include "hw/restricted-memory/trace.h"

#define REQUEST_VERSION     1
#define REQUEST_DEADLINE_S  20

/* GHCB, "SNP Guest Request": SW_EXITINFO2 63:32, the host's status */
#define VMM_ERROR_BUSY      (UINT64_C(2) << 32)
#define VMM_ERROR_GENERIC   (UINT64_C(0xffffffff) << 32)

enum { MESSAGE_LAUNCH = 1, MESSAGE_REQUEST, MESSAGE_ANSWER };

typedef struct QEMU_PACKED LaunchMessage {
    uint32_t length_be;
    uint32_t type, version;
    uint64_t policy;
    uint8_t vmpck[4][32];
    uint8_t measurement[48];
    uint8_t host_data[32];
    uint8_t family_id[16], image_id[16];
    uint32_t guest_svn;
    uint32_t flags;                 /* bit 0: there is an author key */
    uint8_t id_key_digest[48], author_key_digest[48];
    uint8_t report_id[32];
} LaunchMessage;

typedef struct QEMU_PACKED RequestMessage {
    uint32_t length_be;
    uint32_t type, status;
    uint8_t page[RMEM_PAGE_SIZE];
} RequestMessage;

/* Of one vCPU. BQL, but for what only its thread touches. */
struct SevRequest {
    int cpu_index;                  /* the CPU may be unplugged meanwhile */
    uint64_t eip;                   /* of the VMGEXIT that waits; its thread's */
    bool answered;                  /* atomic */
    uint64_t status;                /* once answered, for the guest */
    uint8_t asked[RMEM_PAGE_SIZE], got[RMEM_PAGE_SIZE];
};

static RestrictedService *psp;      /* BQL */

static LaunchMessage describe_launch(const SevGuest *sev)
{
    LaunchMessage message = {
        .length_be = cpu_to_be32(sizeof(message) - 4),
        .type = cpu_to_le32(MESSAGE_LAUNCH),
        .version = cpu_to_le32(REQUEST_VERSION),
        .policy = cpu_to_le64(sev->policy),
        .flags = cpu_to_le32(!buffer_is_zero(sev->author_key_digest, 48)),
    };

    memcpy(message.vmpck, sev->vmpck, sizeof(message.vmpck));
    memcpy(message.measurement, sev->measurement, 48);
    memcpy(message.host_data, sev->host_data, 32);
    memcpy(message.family_id, sev->id_block + ID_FAMILY, 16);
    memcpy(message.image_id, sev->id_block + ID_IMAGE, 16);
    memcpy(&message.guest_svn, sev->id_block + ID_SVN, 4);
    memcpy(message.id_key_digest, sev->id_key_digest, 48);
    memcpy(message.author_key_digest, sev->author_key_digest, 48);
    memcpy(message.report_id, sev->report_id, 32);
    return message;
}

/* The service was told of another launch, or has requests: connect again. */
void sev_request_launch(SevGuest *sev, unsigned cpus)
{
    LaunchMessage message = describe_launch(sev);

    if (!sev->request_address) {
        return;
    }
    psp = psp ?: restricted_service_new("guest request", sev->request_address,
                                        REQUEST_DEADLINE_S,
                                        sizeof(RequestMessage) - 4);
    restricted_service_reset(psp);
    restricted_service_hello(psp, &message, sizeof(message));
    for (unsigned i = 0; i < cpus; i++) {
        g_clear_pointer(&sev->vcpus[i].request, g_free);
    }
}

void sev_forget_requests(RestrictedMemory *rm)
{
    sev_request_launch(sev_guest(), MACHINE(qdev_get_machine())->smp.max_cpus);
}

bool sev_request_has_work(CPUState *cpu)
{
    const SevRequest *request = sev_vcpu(cpu)->request;

    return request && request->eip == cpu_env(cpu)->eip
           && qatomic_read(&request->answered);
}

/* Main thread. */
static void answered(void *opaque, const RestrictedFrame *frame,
                     bool was_connected)
{
    SevRequest *request = opaque;
    RequestMessage message = { .type = 0 };
    CPUState *cpu = qemu_get_cpu(request->cpu_index);

    request->status = VMM_ERROR_GENERIC;
    if (frame && frame->size == sizeof(message) - 4) {
        memcpy(&message.type, frame->data, frame->size);
    }
    if (le32_to_cpu(message.type) == MESSAGE_ANSWER) {
        request->status = le32_to_cpu(message.status);
        memcpy(request->got, message.page, RMEM_PAGE_SIZE);
    } else if (frame) {
        warn_report("guest request: malformed answer");
    }
    qatomic_store_release(&request->answered, true);
    if (cpu) {
        qemu_cpu_kick(cpu);
    }
}

static void ask(SevRequest *request)
{
    g_autofree RequestMessage *message = g_new0(RequestMessage, 1);

    message->length_be = cpu_to_be32(sizeof(*message) - 4);
    message->type = cpu_to_le32(MESSAGE_REQUEST);
    memcpy(message->page, request->asked, RMEM_PAGE_SIZE);
    restricted_service_ask(psp, message, sizeof(*message), answered, request);
}

/* The guest executes the VMGEXIT again when there is something to do. */
static G_NORETURN void halt(SevExit *exit)
{
    exit->vcpu->request->eip = exit->env->eip;
    exit->cpu->halted = 1;
    exit->cpu->exception_index = EXCP_HLT;
    cpu_loop_exit(exit->cpu);
}

static void begin(SevExit *exit, const uint8_t *asked)
{
    SevRequest *request = g_new0(SevRequest, 1);

    request->cpu_index = exit->cpu->cpu_index;
    memcpy(request->asked, asked, RMEM_PAGE_SIZE);
    exit->vcpu->request = request;
    BQL_LOCK_GUARD();
    ask(request);
}

/*
 * Does not return while there is no answer. A vCPU has one request: whoever
 * interrupts it and asks for something else is told that the host is busy.
 */
static uint64_t wait_for_answer(SevExit *exit, const uint8_t *asked,
                                uint8_t *response)
{
    SevRequest *request = exit->vcpu->request;
    uint64_t status = VMM_ERROR_BUSY;
    bool same;

    if (!request) {
        begin(exit, asked);
        request = exit->vcpu->request;
        if (!qatomic_load_acquire(&request->answered)) {
            halt(exit);
        }
    }
    same = !memcmp(request->asked, asked, RMEM_PAGE_SIZE);
    if (!qatomic_load_acquire(&request->answered)) {
        if (same) {
            halt(exit);
        }
        return status;
    }
    if (same) {
        status = request->status;
    }
    if (!status) {
        memcpy(response, request->got, RMEM_PAGE_SIZE);
    }
    g_clear_pointer(&exit->vcpu->request, g_free);
    return status;
}

/* INFO1: request page, INFO2: response page. */
void sev_request(SevExit *exit, bool extended)
{
    RestrictedMemory *rm = exit->sev->rm;
    uint8_t *request = restricted_ram(rm, exit->info1, RMEM_PAGE_SIZE,
                                      RMEM_SHARED);
    uint8_t *response = restricted_ram(rm, exit->info2, RMEM_PAGE_SIZE,
                                       RMEM_SHARED);

    if ((exit->info1 | exit->info2) & ~TARGET_PAGE_MASK
        || exit->info1 == exit->info2) {
        sev_malformed(exit, GHCB_MISSING_INPUT);    /* as KVM calls it */
        return;
    }
    if (!request || !response) {
        sev_malformed(exit, GHCB_INVALID_INPUT);
        return;
    }
    if (extended && !sev_certificates_give(exit, request)) {
        return;
    }
    exit->out2 = exit->sev->request_address
                 ? wait_for_answer(exit, request, response)
                 : VMM_ERROR_GENERIC;
    trace_rmem_sev_request(exit->cpu->cpu_index, extended, exit->out2);
}
