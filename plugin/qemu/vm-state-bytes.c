/*
 * The state of a VM as bytes, for a file, and back.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * All numbers are 64 bits, little endian: the number of other RAM blocks; of
 * each its name's length, its size, name and content; then the number of bytes
 * of the devices, and these. A file may say anything, so all is checked before
 * it is used. What a device makes of its part is QEMU's affair.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "exec/cpu-common.h"
#include "qapi/error.h"
#include "hw/restricted-memory/qemu/compat-migration.h"
#include "hw/restricted-memory/qemu/vm-state-parts.h"

#define NAME_MAX_BYTES 256

typedef struct Bytes {
    const uint8_t *at;
    size_t left;
} Bytes;

static void put_number(GByteArray *to, uint64_t value)
{
    uint8_t raw[8];

    stq_le_p(raw, value);
    g_byte_array_append(to, raw, sizeof(raw));
}

void restricted_vm_state_pack(const RestrictedVmState *state, GByteArray *to)
{
    put_number(to, state->others->len);
    for (unsigned i = 0; i < state->others->len; i++) {
        const OtherRam *other = &g_array_index(state->others, OtherRam, i);
        const char *name = qemu_ram_get_idstr(other->block);

        put_number(to, strlen(name));
        put_number(to, other->size);
        g_byte_array_append(to, (const uint8_t *)name, strlen(name));
        g_byte_array_append(to, other->content, other->size);
    }
    put_number(to, state->devices_bytes);
    g_byte_array_append(to, state->devices, state->devices_bytes);
}

static const uint8_t *take(Bytes *from, uint64_t n)
{
    const uint8_t *at = from->at;

    if (n > from->left) {
        return NULL;
    }
    from->at += n;
    from->left -= n;
    return at;
}

static bool take_number(Bytes *from, uint64_t *value)
{
    const uint8_t *raw = take(from, 8);

    *value = raw ? ldq_le_p(raw) : 0;
    return raw;
}

static bool take_other(Bytes *from, OtherRam *other, Error **errp)
{
    g_autofree char *name = NULL;
    const uint8_t *raw, *content;
    uint64_t length;

    if (!take_number(from, &length) || !take_number(from, &other->size)
        || length > NAME_MAX_BYTES || !(raw = take(from, length))
        || !(content = take(from, other->size))) {
        error_setg(errp, "the state is cut short");
        return false;
    }
    name = g_strndup((const char *)raw, length);
    other->block = qemu_ram_block_by_name(name);
    if (!other->block || !qemu_ram_is_migratable(other->block)
        || qemu_ram_get_used_length(other->block) != other->size) {
        error_setg(errp, "this machine has no memory '%s' of %" PRIu64
                   " bytes", name, other->size);
        return false;
    }
    other->content = g_memdup2(content, other->size);
    return true;
}

static bool take_all(Bytes *from, RestrictedVmState *state, Error **errp)
{
    const uint8_t *devices;
    uint64_t n;

    if (!take_number(from, &n)) {
        error_setg(errp, "the state is cut short");
        return false;
    }
    while (n--) {
        OtherRam other = { 0 };

        if (!take_other(from, &other, errp)) {
            return false;
        }
        g_array_append_val(state->others, other);
    }
    if (!take_number(from, &n) || n < sizeof(uint32_t)
        || !(devices = take(from, n)) || from->left) {
        error_setg(errp, "the state of the devices is cut short");
        return false;
    }
    state->devices = g_memdup2(devices, n);
    state->devices_bytes = n;
    return true;
}

RestrictedVmState *restricted_vm_state_unpack(const uint8_t *bytes, size_t n,
                                              Error **errp)
{
    RestrictedVmState *state = g_new0(RestrictedVmState, 1);
    Bytes from = { bytes, n };

    state->others = g_array_new(false, false, sizeof(OtherRam));
    if (!take_all(&from, state, errp)) {
        restricted_vm_state_free(state);
        return NULL;
    }
    return state;
}
