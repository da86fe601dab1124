/*
 * How a debugger finds the memory of a debuggable VM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU's own commands see no RAM, because where it should be is the guard. In a
 * debuggable VM `info mtree -f` has a list of RAM in front of the others, and
 * `gpa2hva` returns an address in the debugger's view; with `dump-guest-memory`
 * (dump.c) that is all that drgn needs. An address from page tables may carry
 * the profile's bit, which debuggers do not know: RAM is listed there, too.
 *
 * An address is a host access in the journal, of all the RAM that follows it:
 * nobody sees which pages are read.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "monitor/hmp.h"
#include "monitor/monitor.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/commands.h"
#include "hw/restricted-memory/qemu/debug-view.h"
#include "hw/restricted-memory/qemu/dump.h"

static RestrictedHmp *stock_mtree, *stock_gpa2hva;

/* In the form in which QEMU lists an address space; see address_space_memory. */
static void debugger_mtree(Monitor *mon, const QDict *args)
{
    RestrictedMemory *rm = restricted_memory();
    uint64_t bits[] = { 0, restricted_debug_alias(rm) };
    const char *name = object_get_canonical_path_component(OBJECT(rm));

    if (qdict_get_try_bool(args, "flatview", false)) {
        monitor_printf(mon, "FlatView of a debugger\n AS \"memory\", root: "
                       "system\n Root memory region: restricted-debug-view\n");
        for (unsigned bit = 0; bit < (bits[1] ? 2 : 1); bit++) {
            for (unsigned i = 0; i < rm->nslots; i++) {
                hwaddr gpa = rm->slots[i].gpa | bits[bit];

                monitor_printf(mon, "  %016" PRIx64 "-%016" PRIx64
                               " (prio 0, ram): %s\n", gpa,
                               gpa + rm->slots[i].size - 1, name);
            }
        }
        monitor_printf(mon, "\n");
    }
    stock_mtree(mon, args);
}

static void debugger_gpa2hva(Monitor *mon, const QDict *args)
{
    RestrictedMemory *rm = restricted_memory();
    uint64_t asked = qdict_get_int(args, "addr");
    hwaddr gpa = asked & ~restricted_debug_alias(rm);
    const RestrictedSlot *slot = restricted_slot(rm, gpa);
    const uint8_t *view;
    Error *err = NULL;

    if (!slot) {
        stock_gpa2hva(mon, args);
        return;
    }
    view = restricted_debug_view(rm, &err);
    if (!view) {
        hmp_handle_error(mon, err);
        return;
    }
    /* From here on all of that piece can be read. */
    restricted_debug_record(rm, slot->gpa, slot->size >> RMEM_PAGE_BITS);
    monitor_printf(mon, "Host virtual address for 0x%" PRIx64 " (%s) is %p\n",
                   asked, object_get_canonical_path_component(OBJECT(rm)),
                   view + (gpa - slot->gpa + slot->offset));
}

void restricted_debugger_machine_done(RestrictedMemory *rm)
{
    if (!rm->debuggable) {
        return;
    }
    restricted_commands_qmp("dump-guest-memory", restricted_qmp_dump);
    stock_mtree = restricted_commands_hmp("mtree", true, debugger_mtree);
    stock_gpa2hva = restricted_commands_hmp("gpa2hva", false, debugger_gpa2hva);
}
