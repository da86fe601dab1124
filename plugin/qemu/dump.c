/*
 * Dumps of a guest's memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Whoever owns the memory files writes dumps of them itself, and asks for the
 * rest by restricted-memory-dump. In a debuggable VM `dump-guest-memory` writes
 * a plain ELF core, for the clients that know only that. Both are host accesses
 * in the journal.
 */

#include "qemu/osdep.h"
#include "elf.h"
#include "qapi/compat-policy.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-restricted-memory.h"
#include "qapi/qapi-visit-dump.h"
#include "qemu/cutils.h"
#include "qobject/qdict.h"
#include "monitor/monitor.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/dump.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/coreinfo.h"
#include "hw/restricted-memory/qemu/cpu-state.h"
#include "hw/restricted-memory/qemu/debug-view.h"
#include "hw/restricted-memory/qemu/dump.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/refuse.h"
#include "hw/restricted-memory/qemu/stop.h"

void restricted_debug_record(RestrictedMemory *rm, hwaddr gpa, uint64_t pages)
{
    RmemRecord rec = {
        .kind = RMEM_K_HOST_FAULT, .actor = RMEM_A_MONITOR,
        .device = rm->monitor.index, .verdict = RMEM_V_ALLOW,
        .from = RMEM_PRIVATE, .to = RMEM_PRIVATE,
        .gpa = gpa, .pages = MIN(pages, UINT32_MAX),
    };

    restricted_record(rm, &rec);
}

uint64_t restricted_debug_alias(const RestrictedMemory *rm)
{
    return rm->profile->view_bit ? rm->profile->view_bit(rm)
           : rm->profile->device_bit ? rm->profile->device_bit(rm) : 0;
}

/* Functions that write notes want this type behind their argument. */
typedef struct Notes {
    DumpState state;
    GByteArray *bytes;
} Notes;

static int add_note(const void *data, size_t size, void *opaque)
{
    Notes *notes = container_of((DumpState *)opaque, Notes, state);

    g_byte_array_append(notes->bytes, data, size);
    return 0;
}

/* The notes of an ELF core; those about CPUs only if the host may see them. */
static GByteArray *take_notes(RestrictedMemory *rm, const uint8_t *view,
                              ArchDumpInfo *info)
{
    GuestPhysBlockList none = { .head = QTAILQ_HEAD_INITIALIZER(none.head) };
    GByteArray *bytes = g_byte_array_new();
    Notes notes = { .bytes = bytes };
    const uint8_t *coreinfo;
    CPUState *cpu;
    size_t size;

    cpu_get_dump_info(info, &none);
    notes.state.dump_info = *info;
    if (!restricted_state_is_hidden(rm)) {
        CPU_FOREACH(cpu) {
            cpu_write_elf64_note(add_note, cpu, cpu->cpu_index + 1,
                                 &notes.state);
        }
        CPU_FOREACH(cpu) {
            cpu_write_elf64_qemunote(add_note, cpu, &notes.state);
        }
    }
    coreinfo = view ? restricted_coreinfo(rm, view, &size) : NULL;
    if (coreinfo) {
        g_byte_array_append(bytes, coreinfo, size);
    }
    return bytes;
}

RestrictedMemoryCore *qmp_restricted_memory_dump(const char *id,
                                                 bool q_private, Error **errp)
{
    RestrictedMemory *rm = restricted_memory_by_id(id, errp);
    g_autoptr(GByteArray) notes = NULL;
    const uint8_t *view = NULL;
    RestrictedMemoryCore *core;
    ArchDumpInfo info = { 0 };

    if (!rm) {
        return NULL;
    }
    if (q_private && !rm->debuggable) {
        restricted_refuse(rm, RESTRICTED_ALL_MEMORY, NULL, errp);
        return NULL;
    }
    if (q_private) {
        view = restricted_debug_view(rm, errp);
        if (!view) {
            return NULL;
        }
        for (unsigned i = 0; i < rm->nslots; i++) {
            restricted_debug_record(rm, rm->slots[i].gpa,
                                    rm->slots[i].size >> RMEM_PAGE_BITS);
        }
    }
    pause_all_vcpus();
    notes = take_notes(rm, view, &info);
    restricted_resume_vcpus();
    core = g_new0(RestrictedMemoryCore, 1);
    core->machine = info.d_machine;
    core->notes = g_base64_encode(notes->data, notes->len);
    core->view_bit = restricted_debug_alias(rm);
    return core;
}

static bool write_all(int fd, const void *data, size_t size, Error **errp)
{
    if (qemu_write_full(fd, data, size) != size) {
        error_setg_errno(errp, errno, "the dump cannot be written");
        return false;
    }
    return true;
}

/* A page without content is all zeros. */
static bool write_ram(RestrictedMemory *rm, int fd, const uint8_t *view,
                      const Elf64_Phdr *part, Error **errp)
{
    const RestrictedSlot *slot = restricted_slot(rm, part->p_paddr);
    uint64_t at = part->p_paddr - slot->gpa + slot->offset;
    uint64_t end = at + part->p_filesz;

    while (at < end) {
        uint64_t page = at >> RMEM_PAGE_BITS;
        RmemRun run = rmem_run_at(&rm->core, page,
                                  (end - 1) / RMEM_PAGE_SIZE - page + 1);
        uint64_t size = MIN(end, (page + run.count) << RMEM_PAGE_BITS) - at;
        g_autofree uint8_t *zeros = NULL;

        if (run.state == RMEM_PENDING || run.state == RMEM_POISONED) {
            size = MIN(size, 1 << 20);
            zeros = g_malloc0(size);
        }
        if (!write_all(fd, zeros ?: view + at, size, errp)) {
            return false;
        }
        at += size;
    }
    return true;
}

/* A header for each part of RAM in [@begin, @end), journaled. */
static GArray *make_parts(RestrictedMemory *rm, uint64_t begin, uint64_t end)
{
    GArray *parts = g_array_new(false, true, sizeof(Elf64_Phdr));

    for (unsigned i = 0; i < rm->nslots; i++) {
        const RestrictedSlot *slot = &rm->slots[i];
        uint64_t from = MAX(begin, slot->gpa);
        uint64_t to = MIN(end, slot->gpa + slot->size);
        Elf64_Phdr part = {
            .p_type = PT_LOAD, .p_paddr = from,
            .p_filesz = to - from, .p_memsz = to - from,
        };

        if (from < to) {
            hwaddr start = from & ~(RMEM_PAGE_SIZE - 1);

            g_array_append_val(parts, part);
            restricted_debug_record(rm, start,
                                    DIV_ROUND_UP(to - start, RMEM_PAGE_SIZE));
        }
    }
    return parts;
}

static bool write_headers(int fd, const ArchDumpInfo *info,
                          const GByteArray *notes, GArray *parts, Error **errp)
{
    Elf64_Ehdr ehdr = {
        .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64,
                     info->d_endian, EV_CURRENT },
        .e_type = ET_CORE, .e_machine = info->d_machine,
        .e_version = EV_CURRENT, .e_phoff = sizeof(ehdr),
        .e_ehsize = sizeof(ehdr), .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = parts->len + 1,
    };
    Elf64_Phdr note = {
        .p_type = PT_NOTE,
        .p_offset = sizeof(ehdr) + (parts->len + 1) * sizeof(Elf64_Phdr),
        .p_filesz = notes->len, .p_memsz = notes->len,
    };
    uint64_t offset = note.p_offset + notes->len;

    for (unsigned i = 0; i < parts->len; i++) {
        Elf64_Phdr *part = &g_array_index(parts, Elf64_Phdr, i);

        part->p_offset = offset;
        offset += part->p_filesz;
    }
    return write_all(fd, &ehdr, sizeof(ehdr), errp)
           && write_all(fd, &note, sizeof(note), errp)
           && write_all(fd, parts->data, parts->len * sizeof(Elf64_Phdr), errp)
           && write_all(fd, notes->data, notes->len, errp);
}

static bool write_core(RestrictedMemory *rm, int fd, const uint8_t *view,
                       uint64_t begin, uint64_t end, Error **errp)
{
    g_autoptr(GByteArray) notes = NULL;
    g_autoptr(GArray) parts = NULL;
    ArchDumpInfo info = { 0 };
    bool ok;

    notes = take_notes(rm, view, &info);
    if (info.d_endian != (HOST_BIG_ENDIAN ? ELFDATA2MSB : ELFDATA2LSB)) {
        error_setg(errp, "the guest's byte order is not the host's");
        return false;
    }
    parts = make_parts(rm, begin, end);
    if (!parts->len) {
        error_setg(errp, "the guest has no RAM from 0x%" PRIx64 " on", begin);
        return false;
    }
    ok = write_headers(fd, &info, notes, parts, errp);
    for (unsigned i = 0; ok && i < parts->len; i++) {
        ok = write_ram(rm, fd, view, &g_array_index(parts, Elf64_Phdr, i),
                       errp);
    }
    return ok;
}

static int open_protocol(const char *protocol, Error **errp)
{
    const char *name;

    if (strstart(protocol, "fd:", &name)) {
        return monitor_get_fd(monitor_cur(), name, errp);
    }
    if (strstart(protocol, "file:", &name)) {
        return qemu_create(name, O_WRONLY | O_TRUNC | O_BINARY, S_IRUSR, errp);
    }
    error_setg(errp, "protocol must start with 'file:' or 'fd:'");
    return -1;
}

static bool get_arguments(QDict *args, q_obj_dump_guest_memory_arg *arg,
                          Error **errp)
{
    Visitor *v = qobject_input_visitor_new_qmp(QOBJECT(args));
    bool ok = visit_start_struct(v, NULL, NULL, 0, errp);

    if (ok) {
        ok = visit_type_q_obj_dump_guest_memory_arg_members(v, arg, errp)
             && visit_check_struct(v, errp);
        visit_end_struct(v, NULL);
    }
    visit_free(v);
    return ok;
}

static bool is_plain(const q_obj_dump_guest_memory_arg *arg)
{
    return !arg->paging && !(arg->has_detach && arg->detach)
           && (!arg->has_format
               || arg->format == DUMP_GUEST_MEMORY_FORMAT_ELF);
}

static void dump(const q_obj_dump_guest_memory_arg *arg, Error **errp)
{
    RestrictedMemory *rm = restricted_memory();
    uint64_t begin = arg->has_begin ? arg->begin : 0;
    uint64_t length = arg->has_length ? arg->length : UINT64_MAX;
    const uint8_t *view = restricted_debug_view(rm, errp);
    int fd = view ? open_protocol(arg->protocol, errp) : -1;

    if (fd < 0) {
        return;
    }
    pause_all_vcpus();
    write_core(rm, fd, view, begin, begin + MIN(length, UINT64_MAX - begin),
               errp);
    restricted_resume_vcpus();
    close(fd);
}

void restricted_qmp_dump(QDict *args, QObject **ret, Error **errp)
{
    q_obj_dump_guest_memory_arg arg = { 0 };
    Error *err = NULL;

    if (get_arguments(args, &arg, &err) && is_plain(&arg)) {
        dump(&arg, &err);
    } else if (!err) {
        restricted_refuse(restricted_memory(), RESTRICTED_ALL_MEMORY,
                          "more than a plain ELF core", &err);
    }
    if (!err) {
        *ret = QOBJECT(qdict_new());
    }
    error_propagate(errp, err);
    g_free(arg.protocol);
}
