/*
 * The state of a VM beside its memory files: CPUs, devices, other RAM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * CPUs and devices are saved as QEMU saves them for a migration, into a buffer.
 * A section of such a stream has only what differs from a device after its
 * reset, so each is reset before it is loaded. ROMs are not: they would be loaded
 * into the guest's memory.
 *
 * Other RAM is what machines have beside guest RAM: firmware, option ROMs,
 * ACPI tables, a display's memory. It is small, and saved as a whole.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "hw/restricted-memory/qemu/compat-migration.h"
#include "hw/restricted-memory/qemu/tlb.h"
#include "hw/restricted-memory/qemu/vm-state-parts.h"

static int add_other(RAMBlock *block, void *opaque)
{
    GArray *others = opaque;
    OtherRam other = {
        .block = block, .size = qemu_ram_get_used_length(block),
    };

    if (qemu_ram_is_migratable(block)) {
        other.content = g_memdup2(qemu_ram_get_host_addr(block), other.size);
        g_array_append_val(others, other);
    }
    return 0;
}

bool restricted_vm_may_move(RestrictedMemory *rm, Error **errp)
{
    if (rm->held) {
        error_setg(errp, "pages are being invalidated: end that first");
        return false;
    }
    return restricted_may_change(rm, errp);
}

static bool can_be_saved(Error **errp)
{
    MigMode *mode = &migrate_get_current()->parameters.mode, was = *mode;
    bool blocked;

    /* The mode in which RAM stays where it is; others are refused, by us too. */
    *mode = MIG_MODE_CPR_TRANSFER;
    blocked = migration_is_blocked(errp);
    *mode = was;
    return !blocked;
}

bool restricted_vm_may_be_saved(RestrictedMemory *rm, Error **errp)
{
    const char *waits_for = rm->profile->unfinished
                            ? rm->profile->unfinished(rm) : NULL;

    if (waits_for) {
        error_setg(errp, "%s: try again when it is there", waits_for);
        return false;
    }
    return can_be_saved(errp);
}

static bool save_devices(RestrictedVmState *state, Error **errp)
{
    g_autoptr(QIOChannelBuffer) buffer = qio_channel_buffer_new(1 << 18);
    QEMUFile *file;
    int ret;

    qio_channel_set_name(QIO_CHANNEL(buffer), "checkpoint");
    file = qemu_file_new_output(QIO_CHANNEL(buffer));
    ret = compat_save_device_state(file, errp);
    if (ret == 0) {
        ret = qemu_fflush(file);
        state->devices = g_memdup2(buffer->data, buffer->usage);
        state->devices_bytes = buffer->usage;
    }
    qemu_fclose(file);
    if (ret < 0 && errp && !*errp) {
        error_setg(errp, "a device's state cannot be saved: the log says which");
    }
    return ret == 0;
}

RestrictedVmState *restricted_vm_state_save(Error **errp)
{
    RestrictedVmState *state = g_new0(RestrictedVmState, 1);
    bool saved;

    state->others = g_array_new(false, false, sizeof(OtherRam));
    global_state_store();       /* a section that must not be empty */
    restricted_handover_goes(RESTRICTED_TO_ITSELF);     /* the guest stays */
    saved = save_devices(state, errp);
    restricted_handover_goes(RESTRICTED_TO_ANOTHER);
    if (!saved) {
        restricted_vm_state_free(state);
        return NULL;
    }
    qemu_ram_foreach_block(add_other, state->others);
    return state;
}

void restricted_vm_state_free(RestrictedVmState *state)
{
    if (!state) {
        return;
    }
    for (unsigned i = 0; i < state->others->len; i++) {
        g_free(g_array_index(state->others, OtherRam, i).content);
    }
    g_array_free(state->others, true);
    g_free(state->devices);
    g_free(state);
}

void restricted_vm_state_reset(void)
{
    CPUState *cpu;

    CPU_FOREACH(cpu) {
        cpu_reset(cpu);
    }
    resettable_reset(OBJECT(sysbus_get_default()), RESET_TYPE_SNAPSHOT_LOAD);
}

/* Only what differs is written: its code stays translated. */
static void restore_other(const OtherRam *other)
{
    MemoryRegion *mr = other->block->mr;
    uint8_t *now = qemu_ram_get_host_addr(other->block);

    for (uint64_t at = 0; at < other->size; at += RMEM_PAGE_SIZE) {
        uint64_t n = MIN(RMEM_PAGE_SIZE, other->size - at);

        if (memcmp(now + at, other->content + at, n)) {
            memcpy(now + at, other->content + at, n);
            memory_region_set_dirty(mr, at, n);
            restricted_forget_code(mr, &(RestrictedPages){
                                       at >> RMEM_PAGE_BITS, 1 });
        }
    }
}

static bool load_devices(const RestrictedVmState *state, Error **errp)
{
    g_autoptr(QIOChannelBuffer) buffer = qio_channel_buffer_new(1);
    QEMUFile *file;
    int ret;

    qio_channel_set_name(QIO_CHANNEL(buffer), "checkpoint");
    g_free(buffer->data);
    buffer->data = g_memdup2(state->devices, state->devices_bytes);
    buffer->usage = buffer->capacity = state->devices_bytes;
    file = qemu_file_new_input(QIO_CHANNEL(buffer));
    if (ldl_be_p(state->devices) == QEMU_VM_FILE_MAGIC) {
        qemu_get_be32(file);    /* until QEMU 11, with a version behind it */
        qemu_get_be32(file);
    }
    ret = compat_load_device_state(file, errp);
    qemu_fclose(file);
    if (ret < 0 && errp && !*errp) {
        error_setg(errp, "a device's state cannot be loaded: the log says which");
    }
    return ret == 0;
}

bool restricted_vm_state_load(const RestrictedVmState *state,
                              RestrictedHandoverTo to, Error **errp)
{
    bool loaded;

    for (unsigned i = 0; i < state->others->len; i++) {
        restore_other(&g_array_index(state->others, OtherRam, i));
    }
    restricted_handover_goes(to);
    loaded = load_devices(state, errp);
    restricted_handover_goes(RESTRICTED_TO_ANOTHER);
    return loaded;
}
