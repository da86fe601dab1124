/*
 * The machine's reset: a fresh launch.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Everything becomes pending and loses its storage. The exception is RAM
 * without a slot (a PC's shadow RAM), where that holds the firmware that is
 * about to run: it keeps its content, as in a real machine, and so it is in the
 * launch image.
 */

#include "qemu/osdep.h"
#include "hw/core/cpu.h"
#include "system/reset.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/judge.h"
#include "hw/restricted-memory/qemu/launch.h"
#include "hw/restricted-memory/qemu/reset.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/qemu/storage.h"
#include "hw/restricted-memory/qemu/tlb.h"

/* Does @page, which has no slot, have content in the private file? */
static bool is_kept(const RestrictedMemory *rm, uint64_t page)
{
    RmemState state = rmem_state(&rm->core, page);

    return state == RMEM_PRIVATE
           || (state == RMEM_SHARED && !restricted_is_split(rm));
}

/* The runs of pages that keep their content, in order. */
static GArray *find_kept(const RestrictedMemory *rm)
{
    GArray *kept = g_array_new(false, false, sizeof(RestrictedPages));

    for (unsigned i = 0; i + 1 < rm->nslots && !rm->hole_is_ram; i++) {
        uint64_t page = (rm->slots[i].offset + rm->slots[i].size)
                        >> RMEM_PAGE_BITS;
        RestrictedPages run = { page, 0 };

        for (; page < rm->slots[i + 1].offset >> RMEM_PAGE_BITS; page++) {
            if (is_kept(rm, page)) {
                run.count++;
                continue;
            }
            if (run.count) {
                g_array_append_val(kept, run);
            }
            run = (RestrictedPages){ page + 1, 0 };
        }
        if (run.count) {
            g_array_append_val(kept, run);
        }
    }
    return kept;
}

static void punch_others(RestrictedMemory *rm, const GArray *kept)
{
    RestrictedPages rest = { 0, 0 };

    for (unsigned i = 0; i < kept->len; i++) {
        const RestrictedPages *run = &g_array_index(kept, RestrictedPages, i);

        rest.count = run->first - rest.first;
        if (rest.count) {
            restricted_punch(rm, RESTRICTED_FD_PRIVATE, &rest);
        }
        rest.first = run->first + run->count;
    }
    rest.count = rm->core.pages - rest.first;
    restricted_punch(rm, RESTRICTED_FD_PRIVATE, &rest);
    if (restricted_is_split(rm)) {
        rest = (RestrictedPages){ 0, rm->core.pages };
        restricted_punch(rm, RESTRICTED_FD_SHARED, &rest);
    }
}

static void reset(void *opaque)
{
    RestrictedMemory *rm = opaque;
    g_autoptr(GArray) kept = NULL;
    RmemRecord rec = {
        .kind = RMEM_K_RESET, .actor = RMEM_A_HOST, .device = RMEM_NO_DEVICE,
        .pages = MIN(rm->core.pages, UINT32_MAX),
    };

    if (rmem_phase(&rm->core) == RMEM_PH_LAUNCH || restricted_incoming()) {
        return;         /* the machine's first reset: no guest code has run */
    }
    restricted_record(rm, &rec);
    restricted_stop_forget();       /* what comes is another guest */
    qatomic_set(&rm->sealed, false);
    rm->arch->reset(rm);
    WITH_RESTRICTED_LOCK(&rm->lock) {
        kept = find_kept(rm);
        rmem_reset(&rm->core);
        punch_others(rm, kept);
        restricted_states_changed(rm, &(RestrictedPages){ 0, rm->core.pages });
    }
    restricted_phase(rm, RMEM_PH_LAUNCH, 0);
    for (unsigned i = 0; i < kept->len; i++) {
        restricted_load(rm, &g_array_index(kept, RestrictedPages, i));
    }
    if (first_cpu) {
        queue_tb_flush(first_cpu);
    }
    restricted_flush();
}

/*
 * By now QEMU has registered the reset of all devices, and not yet that of
 * ROMs. A device may write to memory until it was reset, and ROMs are loaded
 * into memory.
 */
void restricted_reset_init(RestrictedMemory *rm)
{
    qemu_register_reset(reset, rm);
}
