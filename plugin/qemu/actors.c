/*
 * Names for everything in the host that touches guest memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "monitor/monitor.h"
#include "hw/restricted-memory/qemu/actors.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/pci.h"

char *restricted_actor_name(const RestrictedActor *actor)
{
    return actor->name ? g_strdup(actor->name) : restricted_pci_name(actor);
}

RestrictedActor *restricted_actor_running(RestrictedMemory *rm, bool debug)
{
    if (monitor_cur()) {
        return &rm->monitor;
    }
    return debug ? &rm->gdb : &rm->host;
}

void restricted_actor_add(RestrictedMemory *rm, RestrictedActor *actor,
                          RmemActor kind, const char *name)
{
    actor->kind = kind;
    actor->name = name;
    actor->index = rm->actors->len;
    g_ptr_array_add(rm->actors, actor);
}

void restricted_actors_init(RestrictedMemory *rm)
{
    rm->actors = g_ptr_array_new();
    restricted_actor_add(rm, &rm->monitor, RMEM_A_MONITOR, "monitor");
    restricted_actor_add(rm, &rm->gdb, RMEM_A_GDB, "gdb");
    restricted_actor_add(rm, &rm->host, RMEM_A_HOST, "host");
    restricted_actor_add(rm, &rm->loader, RMEM_A_LOADER, "loader");
    restricted_lock_init(&rm->seen_lock, "the lock of seen faults",
                         RESTRICTED_RANK_LEAF);
}
