/*
 * memory-backend-restricted: guest RAM that the host may not touch.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The backend's region is a container with a guard in it, not RAM: whoever
 * looks at guest memory through system_memory meets the guard. The RAM
 * itself is seen by guest CPUs alone, through their own root (cpu-view.c).
 *
 * QEMU interface:
 *  + property "size", from the parent: a multiple of 4 KiB
 *  + property "profile": whose rules apply (core/transitions.toml)
 *  + property "layout": in-place or split; default by profile
 *  + property "access-policy": answer to a host access to private memory
 *  + property "pending": what a touch of an unaccepted page does
 *  + property "events": what a full event ring does
 *  + property "debuggable": monitor and gdb may touch private memory
 *  + properties "private-fd", "shared-fd", "table-fd", "ring-fd": inherited
 *    files; one that is not given is made here and nobody else can see it
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "qemu/error-report.h"
#include "qemu/memfd.h"
#include "qom/object_interfaces.h"
#include "migration/blocker.h"
#include "migration/vmstate.h"
#include "system/reset.h"
#include "system/system.h"
#include "hw/boards.h"
#include "hw/restricted-memory/restricted.h"
#include "trace.h"

#define RING_DEFAULT_RECORDS 65536

bool restricted_memory_active;
static RestrictedMemory *the_backend;

static const char *const fd_property[RESTRICTED_FDS] = {
    "private-fd", "shared-fd", "table-fd", "ring-fd",
};

RestrictedMemory *restricted_memory(void)
{
    return the_backend;
}

const RestrictedSlot *restricted_slot(const RestrictedMemory *rm, hwaddr gpa)
{
    for (unsigned i = 0; i < rm->nslots; i++) {
        const RestrictedSlot *slot = &rm->slots[i];

        if (gpa - slot->gpa < slot->size) {
            return slot;
        }
    }
    return NULL;
}

uint64_t restricted_offset_to_gpa(const RestrictedMemory *rm, uint64_t offset)
{
    for (unsigned i = 0; i < rm->nslots; i++) {
        const RestrictedSlot *slot = &rm->slots[i];

        if (offset - slot->offset < slot->size) {
            return slot->gpa + (offset - slot->offset);
        }
    }
    /* RAM without a slot of its own (PC: 640K to 1M) sits at its offset. */
    return offset;
}

/* The file behind @which, at least @size bytes long; -1 and @errp if not. */
static int backend_file(RestrictedMemory *rm, int which, uint64_t size,
                        Error **errp)
{
    int fd = rm->fds[which];
    struct stat st;

    if (fd < 0) {
        fd = qemu_memfd_create(fd_property[which], size, false, 0, 0, errp);
        rm->fds[which] = fd;
        return fd;
    }
    if (fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "%s=%d is not an open file",
                         fd_property[which], fd);
        return -1;
    }
    if (st.st_size < size) {
        error_setg(errp, "%s=%d has %" PRIu64 " bytes, %" PRIu64 " needed",
                   fd_property[which], fd, (uint64_t)st.st_size, size);
        return -1;
    }
    qemu_set_cloexec(fd);
    return fd;
}

static void *backend_map(RestrictedMemory *rm, int which, uint64_t size,
                         Error **errp)
{
    int fd = backend_file(rm, which, size, errp);
    void *map;

    if (fd < 0) {
        return NULL;
    }
    map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
               fd, 0);
    if (map == MAP_FAILED) {
        error_setg_errno(errp, errno, "cannot map %s", fd_property[which]);
        return NULL;
    }
    return map;
}

static bool backend_init_core(RestrictedMemory *rm, const RmemProfile *rules,
                              Error **errp)
{
    uint64_t pages = MEMORY_BACKEND(rm)->size >> RMEM_PAGE_BITS;
    uint64_t ring_bytes = RMEM_RECORDS_OFFSET
                          + RING_DEFAULT_RECORDS * sizeof(RmemRecord);
    void *table, *ring;
    const char *problem;
    struct stat st;

    table = backend_map(rm, RESTRICTED_FD_TABLE, pages, errp);
    if (!table) {
        return false;
    }
    if (rm->fds[RESTRICTED_FD_RING] >= 0
        && fstat(rm->fds[RESTRICTED_FD_RING], &st) == 0) {
        ring_bytes = st.st_size;
    }
    ring = backend_map(rm, RESTRICTED_FD_RING, ring_bytes, errp);
    if (!ring) {
        return false;
    }
    problem = rmem_init(&rm->core, rules, ring, ring_bytes, table, pages,
                        rm->fds[RESTRICTED_FD_TABLE],
                        rm->events == RESTRICTED_MEMORY_EVENTS_LOSSLESS
                        ? RMEM_RING_LOSSLESS : 0);
    if (problem) {
        error_setg(errp, "ring-fd: %s", problem);
        return false;
    }
    return true;
}

static bool backend_init_ram(RestrictedMemory *rm, MemoryRegion *mr,
                             int which, Error **errp)
{
    HostMemoryBackend *backend = MEMORY_BACKEND(rm);
    g_autofree char *id = host_memory_backend_get_name(backend);
    g_autofree char *name = g_strdup_printf("%s.%s", id,
        which == RESTRICTED_FD_PRIVATE ? "private" : "shared");
    int fd = backend_file(rm, which, backend->size, errp);

    if (fd < 0) {
        return false;
    }
    /* The block owns its descriptor; ours stays for fallocate(). */
    fd = qemu_dup(fd);
    if (fd < 0) {
        error_setg_errno(errp, errno, "cannot duplicate %s",
                         fd_property[which]);
        return false;
    }
    if (!memory_region_init_ram_from_fd(mr, OBJECT(rm), name, backend->size,
                                        RAM_SHARED | RAM_NORESERVE, fd, 0,
                                        errp)) {
        close(fd);
        return false;
    }
    vmstate_register_ram_global(mr);
    return true;
}

static bool backend_init_files(RestrictedMemory *rm, Error **errp)
{
    if (!backend_init_ram(rm, &rm->private_ram, RESTRICTED_FD_PRIVATE, errp)) {
        return false;
    }
    if (!restricted_is_split(rm)) {
        if (rm->fds[RESTRICTED_FD_SHARED] >= 0) {
            error_setg(errp, "shared-fd has no use with layout=in-place");
            return false;
        }
        return true;
    }
    return backend_init_ram(rm, &rm->shared_ram, RESTRICTED_FD_SHARED, errp);
}

static bool backend_check(RestrictedMemory *rm, const RmemProfile **rules,
                          Error **errp)
{
    uint64_t size = MEMORY_BACKEND(rm)->size;

    if (the_backend) {
        error_setg(errp, "only one %s can be used",
                   TYPE_MEMORY_BACKEND_RESTRICTED);
        return false;
    }
    if (!size || size & (RMEM_PAGE_SIZE - 1)) {
        error_setg(errp, "size %" PRIu64 " is not a multiple of 4 KiB", size);
        return false;
    }
    *rules = rmem_profile_find(rm->profile_name);
    rm->profile = restricted_profile_find(rm->profile_name);
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
    restricted_guard_machine_done(rm);
    restricted_cpu_view_machine_done(rm);
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
    error_setg(&rm->migration_blocker,
               "restricted memory '%s' cannot be migrated or saved: its "
               "private pages must not enter a stream",
               object_get_canonical_path_component(OBJECT(rm)));
    if (migrate_add_blocker(&rm->migration_blocker, errp) < 0) {
        return;
    }
    if (!backend_init_files(rm, errp)
        || !backend_init_core(rm, rules, errp)) {
        return;
    }
    if (backend->prealloc
        && fallocate(rm->fds[RESTRICTED_FD_PRIVATE], 0, 0, backend->size) < 0) {
        error_setg_errno(errp, errno, "cannot preallocate");
        return;
    }

    name = host_memory_backend_get_name(backend);
    memory_region_init(&backend->mr, OBJECT(rm), name, backend->size);
    restricted_guard_init(rm);
    restricted_cpu_view_init(rm);
    restricted_events_init(rm);
    restricted_refuse_init(rm);
    qemu_register_reset(restricted_reset, rm);
    rm->machine_done.notify = backend_machine_done;
    qemu_add_machine_init_done_notifier(&rm->machine_done);

    the_backend = rm;
    restricted_memory_active = true;
}

static bool backend_can_be_deleted(UserCreatable *uc)
{
    return false;
}

/* Properties describe a backend that is not in use yet. */
static bool backend_is_fixed(RestrictedMemory *rm, Error **errp)
{
    if (rm != the_backend) {
        return false;
    }
    error_setg(errp, "the backend is in use: use restricted-memory-set-policy "
               "to change its policy, nothing else can be changed");
    return true;
}

static char *backend_get_profile(Object *obj, Error **errp)
{
    return g_strdup(MEMORY_BACKEND_RESTRICTED(obj)->profile_name);
}

static void backend_set_profile(Object *obj, const char *value, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    if (backend_is_fixed(rm, errp)) {
        return;
    }
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

    if (!backend_is_fixed(rm, errp)) {
        rm->layout = value;
        rm->layout_set = true;
    }
}

static int backend_get_policy(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->policy;
}

static void backend_set_policy(Object *obj, int value, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    if (!backend_is_fixed(rm, errp)) {
        rm->policy = value;
    }
}

static int backend_get_pending(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->pending;
}

static void backend_set_pending(Object *obj, int value, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    if (!backend_is_fixed(rm, errp)) {
        rm->pending = value;
    }
}

static int backend_get_events(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->events;
}

static void backend_set_events(Object *obj, int value, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    if (!backend_is_fixed(rm, errp)) {
        rm->events = value;
    }
}

static bool backend_get_debuggable(Object *obj, Error **errp)
{
    return MEMORY_BACKEND_RESTRICTED(obj)->debuggable;
}

static void backend_set_debuggable(Object *obj, bool value, Error **errp)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    if (!backend_is_fixed(rm, errp)) {
        rm->debuggable = value;
    }
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

    if (backend_is_fixed(rm, errp) || !visit_type_int(v, name, &fd, errp)) {
        return;
    }
    if (fd < 0 || fd > INT_MAX) {
        error_setg(errp, "%s=%" PRId64 " is not the number of a file", name,
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
    qemu_mutex_init(&rm->lock);
    MEMORY_BACKEND(rm)->share = true;
}

static void backend_instance_finalize(Object *obj)
{
    RestrictedMemory *rm = MEMORY_BACKEND_RESTRICTED(obj);

    migrate_del_blocker(&rm->migration_blocker);
    qemu_mutex_destroy(&rm->lock);
    g_free(rm->profile_name);
}

static void backend_class_init(ObjectClass *oc, void *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);

    ucc->complete = backend_complete;
    ucc->can_be_deleted = backend_can_be_deleted;

    object_class_property_add_str(oc, "profile", backend_get_profile,
                                  backend_set_profile);
    object_class_property_set_description(oc, "profile",
        "Whose rules apply: generic, sw-protected, ...");
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
        object_class_property_add(oc, fd_property[i], "int", backend_get_fd,
                                  backend_set_fd, NULL, (void *)i);
        object_class_property_set_description(oc, fd_property[i],
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
