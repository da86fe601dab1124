/*
 * Snapshots: the state of a VM in a file, from which other QEMUs go on.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The file has all but the memory files, page-state table and event ring,
 * which belong to the process that started this one: it copies them while the
 * VM is stopped. The other QEMU gets the same command line, the copies, and
 * -incoming defer, so that nothing writes to them before. In the copy of the
 * ring the guest belongs to no process: the owner word is 0.
 *
 * The file: a magic number; how many times who was seen (judge.c), with 16 bytes
 * each; whether the kernel's code is awaited; the VM's state (vm-state-bytes.c).
 */

#include "qemu/osdep.h"
#include "block/block-global-state.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "system/runstate.h"
#include "hw/restricted-memory/core/history.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/dirty.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/vm-state.h"

#define MAGIC "rmemvm01"
#define MAGIC_BYTES 8
#define SEEN_BYTES 16

typedef struct Saved {
    RestrictedVmState *state;
    GArray *seen;
    bool code_awaited;
} Saved;

static void saved_clear(Saved *saved)
{
    restricted_vm_state_free(saved->state);
    g_clear_pointer(&saved->seen, g_array_unref);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Saved, saved_clear)

static void put_number(GByteArray *to, uint64_t value)
{
    uint8_t raw[8];

    stq_le_p(raw, value);
    g_byte_array_append(to, raw, sizeof(raw));
}

static GByteArray *pack(const Saved *saved)
{
    GByteArray *to = g_byte_array_new();

    g_byte_array_append(to, (const uint8_t *)MAGIC, MAGIC_BYTES);
    put_number(to, saved->code_awaited);
    put_number(to, saved->seen->len);
    for (unsigned i = 0; i < saved->seen->len; i++) {
        const RestrictedSeen *seen = &g_array_index(saved->seen,
                                                    RestrictedSeen, i);

        put_number(to, seen->actor);
        put_number(to, seen->bit);
    }
    restricted_vm_state_pack(saved->state, to);
    return to;
}

static bool unpack(const uint8_t *at, size_t n, Saved *saved, Error **errp)
{
    const size_t head = MAGIC_BYTES + 16;
    uint64_t count;

    if (n < head || memcmp(at, MAGIC, MAGIC_BYTES)) {
        error_setg(errp, "this is no state of a VM, or of another version");
        return false;
    }
    saved->code_awaited = ldq_le_p(at + MAGIC_BYTES);
    count = ldq_le_p(at + MAGIC_BYTES + 8);
    if (count > (n - head) / SEEN_BYTES) {
        error_setg(errp, "the state is cut short");
        return false;
    }
    saved->seen = g_array_new(false, false, sizeof(RestrictedSeen));
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *raw = at + head + i * SEEN_BYTES;
        RestrictedSeen seen = { ldq_le_p(raw), ldq_le_p(raw + 8) };

        g_array_append_val(saved->seen, seen);
    }
    at += head + count * SEEN_BYTES;
    n -= head + count * SEEN_BYTES;
    saved->state = restricted_vm_state_unpack(at, n, errp);
    return saved->state;
}

static bool write_file(const char *file, const GByteArray *bytes, Error **errp)
{
    g_autoptr(GError) problem = NULL;

    if (!g_file_set_contents(file, (const char *)bytes->data, bytes->len,
                             &problem)) {
        error_setg(errp, "%s", problem->message);
        return false;
    }
    return true;
}

static bool read_file(const char *file, Saved *saved, Error **errp)
{
    g_autoptr(GError) problem = NULL;
    g_autofree char *bytes = NULL;
    size_t size;

    if (!g_file_get_contents(file, &bytes, &size, &problem)) {
        error_setg(errp, "%s", problem->message);
        return false;
    }
    return unpack((const uint8_t *)bytes, size, saved, errp);
}

RestrictedMemorySaved *qmp_restricted_memory_save(const char *id,
                                                  const char *file,
                                                  Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    g_autoptr(GByteArray) bytes = NULL;
    g_auto(Saved) saved = { 0 };
    RestrictedMemorySaved *ret;

    if (!rm || !restricted_vm_may_move(rm, errp)
        || !restricted_may_intervene(errp)
        || !restricted_vm_may_be_saved(rm, errp)) {
        return NULL;
    }
    if (runstate_is_running()) {
        error_setg(errp, "the VM runs: stop it first, so that its memory can "
                   "be copied as it is now");
        return NULL;
    }
    saved.state = restricted_vm_state_save(errp);
    if (!saved.state) {
        return NULL;
    }
    saved.seen = restricted_seen_save(rm);
    saved.code_awaited = qatomic_read(&rm->code_awaited);
    bytes = pack(&saved);
    if (!write_file(file, bytes, errp)) {
        return NULL;
    }
    ret = g_new0(RestrictedMemorySaved, 1);
    ret->record = restricted_record_moment(
        rm, &(RmemRecord){ .kind = RMEM_K_SNAPSHOT });
    ret->bytes = bytes->len;
    return ret;
}

void qmp_restricted_memory_follow_writes(const char *id, bool on, Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);

    if (rm && (!on || (restricted_vm_may_move(rm, errp)
                       && restricted_may_intervene(errp)))) {
        restricted_dirty_log(rm, RESTRICTED_DIRTY_FOR_COPY, on);
    }
}

void qmp_restricted_memory_take_writes(const char *id, const char *file,
                                       Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    g_autoptr(GByteArray) bytes = g_byte_array_new();

    if (!rm || !restricted_vm_may_move(rm, errp)) {
        return;
    }
    if (!restricted_dirty_is_on(RESTRICTED_DIRTY_FOR_COPY)) {
        error_setg(errp, "writes are not followed: begin with "
                   "restricted-memory-follow-writes");
        return;
    }
    for (int i = 0; i < restricted_files(rm); i++) {
        g_autofree uint64_t *taken =
            restricted_dirty_take(rm, RESTRICTED_DIRTY_FOR_COPY, i);

        for (uint64_t w = 0; w < RMEM_BITMAP_WORDS(rm->core.pages); w++) {
            put_number(bytes, taken[w]);
        }
    }
    write_file(file, bytes, errp);
}

static bool may_restore(const RestrictedMemory *rm, Error **errp)
{
    if (!rm->restores || !runstate_check(RUN_STATE_INMIGRATE)) {
        error_setg(errp, "this QEMU does not wait for a saved guest: start it "
                   "with -incoming defer and copies of its files");
        return false;
    }
    return true;
}

static bool load(RestrictedMemory *rm, const Saved *saved, Error **errp)
{
    ERRP_GUARD();

    if (!restricted_seen_fits(rm, saved->seen)) {
        error_setg(errp, "the state is of a machine with other devices");
        return false;
    }
    bdrv_activate_all(errp);
    if (*errp
        || !restricted_vm_state_load(saved->state, RESTRICTED_TO_A_COPY, errp)) {
        return false;
    }
    qatomic_set(&rm->code_awaited, saved->code_awaited);
    restricted_seen_restore(rm, saved->seen);
    return true;
}

/* If it fails, this QEMU has no guest and must end. */
void qmp_restricted_memory_restore(const char *id, const char *file,
                                   Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    g_auto(Saved) saved = { 0 };

    if (rm && may_restore(rm, errp) && read_file(file, &saved, errp)
        && load(rm, &saved, errp)) {
        rm->restores = false;
        runstate_set(RUN_STATE_PAUSED);
    }
}
