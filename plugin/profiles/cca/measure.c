/*
 * CCA: measurements of a realm.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The RIM is computed as by a monitor (RMM, A7.1.1): the parameters, RIPAS, the
 * pages of the launch image in the order of their addresses, the vCPU that runs
 * first. It is not hardware's: that depends on the order in which a host makes
 * its calls, and on parameters of hardware that is not here. It proves nothing.
 *
 * To hash a kernel takes longer than a tenth of its boot, and few guests ask.
 * So the launch keeps a copy of the image, and the first who asks has it
 * hashed.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "hw/restricted-memory/qemu/content.h"
#include "hw/restricted-memory/profiles/cca/call.h"
#include "hw/restricted-memory/profiles/cca/launch.h"

/* RMM, B4.4, RmmMeasurementDescriptor*: what a RIM is extended with */
enum { DESCRIBES_DATA, DESCRIBES_REC, DESCRIBES_RIPAS };

typedef struct QEMU_PACKED Descriptor {
    uint8_t type;
    uint8_t reserved0[7];
    uint64_t length;
    uint8_t rim[CCA_WORD_BYTES];
    union {
        struct QEMU_PACKED {
            uint64_t ipa, flags;
            uint8_t content[CCA_WORD_BYTES];
        } data;
        uint8_t rec[CCA_WORD_BYTES];
        struct QEMU_PACKED {
            uint64_t base, top;
        } ripas;
        uint8_t reserved1[0x100 - 16 - CCA_WORD_BYTES];
    };
} Descriptor;

QEMU_BUILD_BUG_ON(sizeof(Descriptor) != 0x100);

#define DATA_IS_MEASURED    1

/* RMM, B4.4, RmiRealmParams: what of it is measured */
#define PARAM_IPA_WIDTH     0x08
#define PARAM_ALGORITHM     0x30
/* RmiRecParams */
#define REC_FLAGS           0x000
#define REC_PC              0x200
#define REC_GPRS            0x300
#define REC_RUNNABLE        1
#define REC_NGPRS           8

static void hash(const CcaGuest *cca, const void *data, size_t size,
                 uint8_t digest[CCA_WORD_BYTES])
{
    bool is_512 = cca->algorithm == RME_GUEST_MEASUREMENT_ALGORITHM_SHA512;
    g_autoptr(GChecksum) sum = g_checksum_new(is_512 ? G_CHECKSUM_SHA512
                                                     : G_CHECKSUM_SHA256);
    gsize length = CCA_WORD_BYTES;

    g_checksum_update(sum, data, size);
    memset(digest, 0, CCA_WORD_BYTES);
    g_checksum_get_digest(sum, digest, &length);
}

static size_t hash_bytes(const CcaGuest *cca)
{
    return cca->algorithm == RME_GUEST_MEASUREMENT_ALGORITHM_SHA512 ? 64 : 32;
}

static void extend_rim(CcaGuest *cca, Descriptor *descriptor)
{
    descriptor->length = cpu_to_le64(sizeof(*descriptor));
    memcpy(descriptor->rim, cca->measurements[0], CCA_WORD_BYTES);
    hash(cca, descriptor, sizeof(*descriptor), cca->measurements[0]);
}

static void measure_parameters(CcaGuest *cca)
{
    g_autofree uint8_t *params = g_malloc0(RMEM_PAGE_SIZE);

    params[PARAM_IPA_WIDTH] = cca->ipa_bits;
    params[PARAM_ALGORITHM] = cca->algorithm;
    hash(cca, params, RMEM_PAGE_SIZE, cca->measurements[0]);
}

/* What the launch has left, until it is hashed. */
struct CcaImage {
    uint64_t pc, gprs[REC_NGPRS];   /* of the vCPU that runs first */
    GArray *gpas;                   /* uint64_t, of each page ... */
    GByteArray *content;            /* ... and what is in it */
};

static void image_free(CcaImage *image)
{
    g_array_unref(image->gpas);
    g_byte_array_unref(image->content);
    g_free(image);
}

static void copy_page(CcaGuest *cca, CcaImage *image, uint64_t page)
{
    uint64_t gpa = restricted_page_to_gpa(cca->rm, page);

    g_array_append_val(image->gpas, gpa);
    g_byte_array_append(image->content,
                        restricted_content(cca->rm, page, RMEM_PRIVATE),
                        RMEM_PAGE_SIZE);
}

static void copy_slot(CcaGuest *cca, CcaImage *image,
                      const RestrictedSlot *slot)
{
    uint64_t first = slot->offset >> RMEM_PAGE_BITS;
    uint64_t end = first + (slot->size >> RMEM_PAGE_BITS);

    while (first < end) {
        RmemRun run = rmem_run_at(&cca->rm->core, first, end - first);

        for (uint64_t i = 0; run.state == RMEM_PRIVATE && i < run.count; i++) {
            copy_page(cca, image, first + i);
        }
        first += run.count;
    }
}

void cca_measure_launch(CcaGuest *cca)
{
    const CPUARMState *env = cpu_env(first_cpu);
    CcaImage *image = g_new0(CcaImage, 1);

    g_clear_pointer(&cca->image, image_free);
    memset(cca->measurements, 0, sizeof(cca->measurements));
    image->gpas = g_array_new(false, false, sizeof(uint64_t));
    image->content = g_byte_array_new();
    image->pc = env->pc;
    memcpy(image->gprs, env->xregs, sizeof(image->gprs));
    for (unsigned i = 0; i < cca->rm->nslots; i++) {
        copy_slot(cca, image, &cca->rm->slots[i]);
    }
    cca->image = image;
}

static void measure_ripas(CcaGuest *cca, const RestrictedSlot *slot)
{
    Descriptor descriptor = { .type = DESCRIBES_RIPAS };

    descriptor.ripas.base = cpu_to_le64(slot->gpa);
    descriptor.ripas.top = cpu_to_le64(slot->gpa + slot->size);
    extend_rim(cca, &descriptor);
}

static void measure_page(CcaGuest *cca, uint64_t gpa, const uint8_t *content)
{
    Descriptor descriptor = { .type = DESCRIBES_DATA };

    descriptor.data.ipa = cpu_to_le64(gpa);
    descriptor.data.flags = cpu_to_le64(DATA_IS_MEASURED);
    hash(cca, content, RMEM_PAGE_SIZE, descriptor.data.content);
    extend_rim(cca, &descriptor);
}

/* The other vCPUs start by PSCI. */
static void measure_boot_cpu(CcaGuest *cca)
{
    g_autofree uint8_t *params = g_malloc0(RMEM_PAGE_SIZE);
    Descriptor descriptor = { .type = DESCRIBES_REC };

    stq_le_p(params + REC_FLAGS, REC_RUNNABLE);
    stq_le_p(params + REC_PC, cca->image->pc);
    for (int i = 0; i < REC_NGPRS; i++) {
        stq_le_p(params + REC_GPRS + 8 * i, cca->image->gprs[i]);
    }
    hash(cca, params, RMEM_PAGE_SIZE, descriptor.rec);
    extend_rim(cca, &descriptor);
}

void cca_measure(CcaGuest *cca)
{
    CcaImage *image = cca->image;

    if (!image) {
        return;
    }
    measure_parameters(cca);
    for (unsigned i = 0; i < cca->rm->nslots; i++) {
        measure_ripas(cca, &cca->rm->slots[i]);
    }
    for (unsigned i = 0; i < image->gpas->len; i++) {
        measure_page(cca, g_array_index(image->gpas, uint64_t, i),
                     image->content->data + i * RMEM_PAGE_SIZE);
    }
    measure_boot_cpu(cca);
    g_clear_pointer(&cca->image, image_free);
}

void cca_forget_image(CcaGuest *cca)
{
    g_clear_pointer(&cca->image, image_free);
}

/* RMM, B5.3.8. X1: 0 the RIM, 1 to 4 a REM. X1 to X8: its value. */
uint64_t cca_measurement_read(CcaCall *call)
{
    uint64_t index = call->x[1];

    if (index >= CCA_MEASUREMENTS) {
        return RSI_ERROR_INPUT;
    }
    cca_measure(call->cca);
    for (int i = 0; i < CCA_WORD_BYTES / 8; i++) {
        call->x[1 + i] = ldq_le_p(call->cca->measurements[index] + 8 * i);
    }
    return RSI_SUCCESS;
}

/* RMM, B5.3.7. X1 index of a REM, X2 bytes, X3 to X10 what to add to it. */
uint64_t cca_measurement_extend(CcaCall *call)
{
    CcaGuest *cca = call->cca;
    uint64_t index = call->x[1], size = call->x[2];
    uint8_t both[2 * CCA_WORD_BYTES], *value = both + hash_bytes(cca);

    if (!index || index >= CCA_MEASUREMENTS || size > CCA_WORD_BYTES) {
        return RSI_ERROR_INPUT;
    }
    memcpy(both, cca->measurements[index], hash_bytes(cca));
    for (int i = 0; i < CCA_WORD_BYTES / 8; i++) {
        stq_le_p(value + 8 * i, call->x[3 + i]);
    }
    hash(cca, both, hash_bytes(cca) + size, cca->measurements[index]);
    return RSI_SUCCESS;
}
