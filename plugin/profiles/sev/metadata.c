/*
 * SEV: the metadata of firmware, and the pages that it is given.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Metadata of OVMF: OvmfPkg/ResetVector. QEMU's hw/i386/pc_sysfw_ovmf.c and
 * target/i386/sev.c read the same.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/uuid.h"
#include "hw/restricted-memory/profiles/ovmf.h"
#include "hw/restricted-memory/profiles/sev/metadata.h"
#include "target/i386/sev.h"

#define GUID_METADATA   "dc886566-984a-4798-a75e-5585a7bf67cc"
#define GUID_HASHES     "7255371f-3a3b-4b04-927b-1da6efa8d454"
#define GUID_RESET      "00f771de-1a7e-4fcb-890e-68c77e2fb44e"

static bool parse_section(const uint8_t *raw, SevSection *section, Error **errp)
{
    *section = (SevSection) {
        .gpa = ldl_le_p(raw), .size = ldl_le_p(raw + 4),
        .type = ldl_le_p(raw + 8),
    };
    if (!section->size
        || (section->gpa | section->size) & (RMEM_PAGE_SIZE - 1)) {
        error_setg(errp, "firmware: SEV section at 0x%x of 0x%x bytes "
                   "cannot be placed", section->gpa, section->size);
        return false;
    }
    return true;
}

/* Without GUID_METADATA the firmware does not know SEV. */
bool sev_metadata_parse(SevGuest *sev, const uint8_t *image, size_t size,
                        Error **errp)
{
    OvmfSections found;
    const uint8_t *entry;

    sev->sections = g_array_new(false, false, sizeof(SevSection));
    restricted_ovmf_parse(image, size);
    entry = restricted_ovmf_entry(GUID_HASHES, 8);
    if (entry) {
        sev->hashes_gpa = ldl_le_p(entry);
        sev->hashes_size = ldl_le_p(entry + 4);
    }
    entry = restricted_ovmf_entry(GUID_RESET, 4);
    if (entry) {
        sev->ap_reset = ldl_le_p(entry);
    }
    entry = restricted_ovmf_entry(GUID_METADATA, 4);
    if (!entry) {
        return true;
    }
    sev->metadata = true;
    if (!restricted_ovmf_sections(image, size, ldl_le_p(entry), "ASEV",
                                  sizeof(SevSection), "SEV", &found, errp)) {
        return false;
    }
    for (uint32_t i = 0; i < found.count; i++) {
        SevSection section;

        if (!parse_section(found.first + i * sizeof(section), &section,
                           errp)) {
            return false;
        }
        g_array_append_val(sev->sections, section);
    }
    return true;
}

/* FW, chapter 8.17.2.6 "CPUID Page" */
#define CPUID_MAX       64
#define CPUID_HEADER    16
#define CPUID_ENTRY     48

static const struct {
    uint32_t leaf;
    uint32_t subleaves;
} cpuid_leaves[] = {
    { 0x0, 1 }, { 0x1, 1 }, { 0x2, 1 }, { 0x4, 4 }, { 0x5, 1 }, { 0x6, 1 },
    { 0x7, 2 }, { 0xb, 2 }, { 0xd, 64 }, { 0x40000000, 1 },
    { 0x40000001, 1 }, { 0x80000000, 1 }, { 0x80000001, 1 },
    { 0x80000002, 1 }, { 0x80000003, 1 }, { 0x80000004, 1 },
    { 0x80000005, 1 }, { 0x80000006, 1 }, { 0x80000007, 1 },
    { 0x80000008, 1 }, { 0x8000000a, 1 }, { 0x80000019, 1 },
    { 0x8000001a, 1 }, { 0x8000001d, 4 }, { 0x8000001e, 1 },
    { 0x8000001f, 1 }, { 0x80000021, 1 },
};

/*
 * The size of an XSAVE area is that after a reset. False: there is no such
 * subleaf.
 */
static bool cpuid_entry(uint8_t *entry, uint32_t leaf, uint32_t subleaf)
{
    CPUX86State *env = cpu_env(first_cpu);
    bool xsave = leaf == 0xd && subleaf < 2;
    uint64_t xcr0 = env->xcr0;
    uint32_t regs[4];

    env->xcr0 = xsave ? XSTATE_FP_MASK : xcr0;
    cpu_x86_cpuid(env, leaf, subleaf, &regs[0], &regs[1], &regs[2], &regs[3]);
    env->xcr0 = xcr0;
    if (xsave) {
        regs[1] = 0x240;
    }
    stl_le_p(entry, leaf);
    stl_le_p(entry + 4, subleaf);
    stq_le_p(entry + 8, xsave ? XSTATE_FP_MASK : 0);
    for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
        stl_le_p(entry + 24 + 4 * i, regs[i]);
    }
    return subleaf < 2 || regs[0] || regs[1] || regs[2] || regs[3];
}

void sev_cpuid_page(uint8_t *page)
{
    uint32_t count = 0;

    memset(page, 0, RMEM_PAGE_SIZE);
    for (size_t i = 0; i < ARRAY_SIZE(cpuid_leaves); i++) {
        for (uint32_t sub = 0; sub < cpuid_leaves[i].subleaves; sub++) {
            assert(count < CPUID_MAX);
            count += cpuid_entry(page + CPUID_HEADER + CPUID_ENTRY * count,
                                 cpuid_leaves[i].leaf, sub);
        }
    }
    /* Clear the last entry, which may be of a subleaf that does not exist. */
    memset(page + CPUID_HEADER + CPUID_ENTRY * count, 0, CPUID_ENTRY);
    stl_le_p(page, count);
}

/* FW, chapter 8.17.2, "Secrets Page": version, VMPCK0 to VMPCK3 */
void sev_secrets_page(const SevGuest *sev, uint8_t *page)
{
    memset(page, 0, RMEM_PAGE_SIZE);
    stl_le_p(page, 3);
    memcpy(page + 0x20, sev->vmpck, sizeof(sev->vmpck));
}

/* The table that OVMF's BlobVerifier reads, with the layout of sev.c. */
#define HASH_TABLE_GUID     "9438d606-4f22-4cc9-b479-a793d411fd21"
#define HASH_CMDLINE_GUID   "97d02dd8-bd20-4c94-aa78-e7714d36ab2a"
#define HASH_INITRD_GUID    "44baf731-3a2f-4bd7-9af1-41e29169781d"
#define HASH_KERNEL_GUID    "4de79437-abd2-427f-b835-d5b172d2045b"
#define HASH_HEADER         18
#define HASH_ENTRY          50

bool sev_hashes(RestrictedMemory *rm)
{
    const SevGuest *sev = sev_guest();

    return sev->kernel_hashes && sev->hashes_size;
}

static void hash_guid(uint8_t *at, const char *guid, uint16_t length)
{
    QemuUUID uuid;

    qemu_uuid_parse(guid, &uuid);
    uuid = qemu_uuid_bswap(uuid);
    memcpy(at, &uuid, 16);
    stw_le_p(at + 16, length);
}

static void hash_entry(uint8_t *at, const char *guid, const char *a,
                       size_t a_size, const char *b, size_t b_size)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    gsize length = 32;

    hash_guid(at, guid, HASH_ENTRY);
    if (a_size) {
        g_checksum_update(sum, (const guchar *)a, a_size);
    }
    if (b_size) {
        g_checksum_update(sum, (const guchar *)b, b_size);
    }
    g_checksum_get_digest(sum, at + 18, &length);
}

void sev_hash(RestrictedMemory *rm,
              const struct SevKernelLoaderContext *context)
{
    SevGuest *sev = sev_guest();
    uint8_t *at = sev->hashes;

    hash_guid(at, HASH_TABLE_GUID, HASH_HEADER + 3 * HASH_ENTRY);
    at += HASH_HEADER;
    hash_entry(at, HASH_CMDLINE_GUID, context->cmdline_data,
               context->cmdline_size, NULL, 0);
    hash_entry(at + HASH_ENTRY, HASH_INITRD_GUID, context->initrd_data,
               context->initrd_size, NULL, 0);
    hash_entry(at + 2 * HASH_ENTRY, HASH_KERNEL_GUID, context->setup_data,
               context->setup_size, context->kernel_data,
               context->kernel_size);
}
