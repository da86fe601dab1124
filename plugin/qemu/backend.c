/*
 * memory-backend-restricted: guest RAM that the host may not touch.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The backend's region is a container with a guard in it, not RAM: all
 * accesses through system_memory meet the guard. Only guest CPUs see the RAM
 * itself, through their own root region (cpu-view.c).
 *
 * QEMU interface:
 *  + property "size", from the parent: a multiple of 4 KiB
 *  + property "profile": the guest interface (core/transitions.toml)
 *  + property "layout": in-place or split; default by profile
 *  + property "access-policy": answer to a host access to private memory
 *  + property "pending": what a touch of an unaccepted page does
 *  + property "events": what a full event ring does
 *  + property "debuggable": monitor and gdb may touch private memory
 *  + properties "private-fd", "shared-fd", "table-fd", "ring-fd": inherited
 *    files; a file that is not given is created, and no other process sees it
 *  + property "stacks-fd": inherited file for windows of guest stacks; without
 *    it none are kept
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qom/object_interfaces.h"
#include "migration/blocker.h"
#include "system/system.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/backend.h"
#include "hw/restricted-memory/qemu/commands.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/files.h"
#include "hw/restricted-memory/qemu/frozen.h"
#include "hw/restricted-memory/qemu/handover.h"
#include "hw/restricted-memory/qemu/launch.h"
#include "hw/restricted-memory/qemu/recording.h"
#include "hw/restricted-memory/qemu/refuse.h"
#include "hw/restricted-memory/qemu/reset.h"
#include "hw/restricted-memory/qemu/spaces.h"
#include "hw/restricted-memory/qemu/stop.h"

bool restricted_memory_active;
static RestrictedMemory *the_backend;

RestrictedMemory *restricted_memory(void)
{
    return the_backend;
}

static const RestrictedProfile *profile_find(const RestrictedArch *arch,
                                             const char *name)
{
    for (size_t i = 0; arch->profiles[i]; i++) {
        if (!strcmp(arch->profiles[i]->name, name)) {
            return arch->profiles[i];
        }
    }
    return NULL;
}

static bool backend_check(RestrictedMemory *rm, const RmemProfile **rules,
                          Error **errp)
{
    uint64_t size = MEMORY_BACKEND(rm)->size;

    if (phase_check(PHASE_MACHINE_INITIALIZED)) {
        error_setg(errp, "%s must be on the command line: the machine has its "
                   "memory already", TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    if (the_backend) {
        error_setg(errp, "only one %s can be used",
                   TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    if (!size || size & (RMEM_PAGE_SIZE - 1)) {
        error_setg(errp, "size %" PRIu64 " is not a multiple of 4 KiB", size);
        return false;
    }
    rm->arch = restricted_arch();
    if (!rm->arch) {
        error_setg(errp, "no restricted memory for this machine's CPUs yet");
        return false;
    }
    *rules = rmem_profile_find(rm->profile_name);
    rm->profile = profile_find(rm->arch, rm->profile_name);
    if (!*rules || !rm->profile) {
        error_setg(errp, "profile '%s' is unknown", rm->profile_name);
        return false;
    }
    if (!rm->layout_set) {
        rm->layout = (*rules)->split ? RESTRICTED_MEMORY_LAYOUT_SPLIT
                                     : RESTRICTED_MEMORY_LAYOUT_IN_PLACE;
    }
    if (restricted_is_split(rm)
        && rm->policy == RESTRICTED_MEMORY_POLICY_SHARE) {
        error_setg(errp, "access-policy=share needs layout=in-place: content "
                   "cannot move between files while a device waits");
        return false;
    }
    return true;
}

static void backend_machine_done(Notifier *notifier, void *data)
{
    RestrictedMemory *rm = container_of(notifier, RestrictedMemory,
                                        machine_done);
    Error *err = NULL;

    if (!restricted_refuse_machine(rm, &err)) {
        error_report_err(err);
        exit(EXIT_FAILURE);
    }
    restricted_spaces_machine_done(rm);
    if (rm->profile->machine_done && !rm->profile->machine_done(rm, &err)) {
        error_report_err(err);
        exit(EXIT_FAILURE);
    }
    restricted_spaces_find_strays(rm);
    restricted_cpu_view_machine_done(rm);
    restricted_launch_machine_done(rm);
    restricted_commands_machine_done(rm);
    rm->arch->machine_done(rm);
    restricted_reset_init(rm);
}

static void backend_complete(UserCreatable *uc, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(uc);
    HostMemoryBackend *backend = MEMORY_BACKEND(uc);
    const RmemProfile *rules;
    g_autofree char *name = NULL;

    if (!backend_check(rm, &rules, errp)) {
        return;
    }
    if (!restricted_files_ram(rm, errp)
        || !restricted_files_map(rm, rules, errp)
        || !restricted_handover_init(rm, errp)
        || (rm->profile->attach && !rm->profile->attach(rm, errp))) {
        return;
    }
    if (backend->prealloc
        && RETRY_ON_EINTR(fallocate(rm->fds[RESTRICTED_FD_PRIVATE], 0, 0,
                                    backend->size)) < 0) {
        error_setg_errno(errp, errno, "cannot preallocate");
        return;
    }

    name = host_memory_backend_get_name(backend);
    memory_region_init(&backend->mr, OBJECT(rm), name, backend->size);
    restricted_spaces_init(rm);
    restricted_guard_init(rm);
    restricted_cpu_view_init(rm);
    restricted_events_init(rm);
    restricted_stop_init(rm);
    restricted_recording_init();
    restricted_refuse_init();
    rm->arch->init(rm);
    rm->machine_done.notify = backend_machine_done;
    qemu_add_machine_init_done_notifier(&rm->machine_done);

    the_backend = rm;
    restricted_memory_active = true;
    restricted_freeze(OBJECT(rm));
    if (current_machine->cgs) {
        restricted_freeze(OBJECT(current_machine->cgs));
    }
}

static char *backend_get_profile(Object *obj, Error **errp)
{
    return g_strdup(MEMORY_BACKEND_RESTRICTED(obj)->profile_name);
}

static void backend_set_profile(Object *obj, const char *value, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    g_free(rm->profile_name);
    rm->profile_name = g_strdup(value);
}

static int backend_get_layout(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->layout;
}

static void backend_set_layout(Object *obj, int value, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    rm->layout = value;
    rm->layout_set = true;
}

static int backend_get_policy(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->policy;
}

static void backend_set_policy(Object *obj, int value, Error **errp)
{
    MEMORY_BACKEND_RESTRICTED(obj)->policy = value;
}

static int backend_get_pending(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->pending;
}

static void backend_set_pending(Object *obj, int value, Error **errp)
{
    MEMORY_BACKEND_RESTRICTED(obj)->pending = value;
}

static int backend_get_events(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->events;
}

static void backend_set_events(Object *obj, int value, Error **errp)
{
    MEMORY_BACKEND_RESTRICTED(obj)->events = value;
}

static bool backend_get_debuggable(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->debuggable;
}

static void backend_set_debuggable(Object *obj, bool value, Error **errp)
{
    MEMORY_BACKEND_RESTRICTED(obj)->debuggable = value;
}

static void backend_get_fd(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    visit_type_int(v, name, &rm->fds[(uintptr_t)opaque], errp);
}

static void backend_set_fd(Object *obj, Visitor *v, const char *name,
                           void *opaque, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);
    int64_t fd;

    if (!visit_type_int(v, name, &fd, errp)) {
        return;
    }
    if (fd < 0 || fd > INT_MAX) {
        error_setg(errp, "%s=%" PRId64 " is not a file descriptor", name,
                   fd);
        return;
    }
    rm->fds[(uintptr_t)opaque] = fd;
}

static void backend_instance_init(Object *obj)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    rm->profile_name = g_strdup("generic");
    for (int i = 0; i < RESTRICTED_FDS; i++) {
        rm->fds[i] = -1;
    }
    restricted_lock_checks_init();
    restricted_lock_init(&rm->lock, "the lock of page states",
                         RESTRICTED_RANK_STATES);
    MEMORY_BACKEND(rm)->share = true;
}

static void backend_instance_finalize(Object *obj)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    migrate_del_blocker(&rm->migration_blocker);
    restricted_lock_destroy(&rm->lock);
    g_free(rm->profile_name);
}

static void backend_class_init(ObjectClass *oc, CompatClassData *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = backend_complete;
    compat_forbid_deletion(ucc);

    object_class_property_add_str(oc, "profile", backend_get_profile,
                                  backend_set_profile);
    object_class_property_set_description(oc, "profile",
        "Guest interface: generic, sw-protected, ...");
    object_class_property_add_enum(oc, "layout", "RestrictedMemoryLayout",
                                   &RestrictedMemoryLayout_lookup,
                                   backend_get_layout, backend_set_layout);
    object_class_property_set_description(oc, "layout",
        "Content in one file or in two");
    object_class_property_add_enum(oc, "access-policy",
                                   "RestrictedMemoryPolicy",
                                   &RestrictedMemoryPolicy_lookup,
                                   backend_get_policy, backend_set_policy);
    object_class_property_set_description(oc, "access-policy",
        "Answer to a host access to private memory");
    object_class_property_add_enum(oc, "pending", "RestrictedMemoryPending",
                                   &RestrictedMemoryPending_lookup,
                                   backend_get_pending, backend_set_pending);
    object_class_property_set_description(oc, "pending",
        "What a touch of an unaccepted page does");
    object_class_property_add_enum(oc, "events", "RestrictedMemoryEvents",
                                   &RestrictedMemoryEvents_lookup,
                                   backend_get_events, backend_set_events);
    object_class_property_set_description(oc, "events",
        "What a full event ring does");
    object_class_property_add_bool(oc, "debuggable", backend_get_debuggable,
                                   backend_set_debuggable);
    object_class_property_set_description(oc, "debuggable",
        "Monitor and gdb may touch private memory");
    for (uintptr_t i = 0; i < RESTRICTED_FDS; i++) {
        object_class_property_add(oc, restricted_fd_property[i], "int", backend_get_fd,
                                  backend_set_fd, NULL, (void *)i);
        object_class_property_set_description(oc, restricted_fd_property[i],
            "Inherited file descriptor");
    }
}

static const TypeInfo backend_info = {
    .name = TYPE_MEMORY_BACKEND_RESTRICTED,
    .parent = TYPE_MEMORY_BACKEND,
    .instance_size = sizeof(RestrictedMemory),
    .instance_init = backend_instance_init,
    .instance_finalize = backend_instance_finalize,
    .class_init = backend_class_init,
};

static void backend_register_types(void)
{
    type_register_static(&backend_info);
}

type_init(backend_register_types)
