/*
 * Properties of objects that a running machine uses.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Setters were written for an object that nobody uses yet: they free what the
 * guest's threads read, or take the backend's container for RAM. Most of them
 * belong to classes of QEMU. So each setter is replaced by one that first asks
 * whether the object is in use. A class has other objects as well, for which
 * the setter works as before.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/restricted-memory/qemu/compat.h"
#include "hw/restricted-memory/qemu/frozen.h"

static GHashTable *setters;         /* ObjectProperty: its own setter */
static GHashTable *frozen;          /* a set of Object */

static void frozen_set(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    ObjectPropertyAccessor *set
        = g_hash_table_lookup(setters, object_property_find(obj, name));

    if (g_hash_table_contains(frozen, obj)) {
        error_setg(errp, "property '%s' cannot be set any more: object '%s' "
                   "is in use by the guest", name,
                   object_get_canonical_path_component(obj));
        return;
    }
    set(obj, v, name, opaque, errp);
}

void restricted_freeze(Object *obj)
{
    ObjectPropertyIterator iter;
    ObjectProperty *property;

    if (!setters) {
        setters = g_hash_table_new(NULL, NULL);
        frozen = g_hash_table_new(NULL, NULL);
    }
    g_hash_table_add(frozen, obj);
    object_property_iter_init(&iter, obj);
    while ((property = object_property_iter_next(&iter))) {
        if (property->set && property->set != frozen_set) {
            g_hash_table_insert(setters, property, property->set);
            property->set = frozen_set;
        }
    }
    compat_forbid_deletion(USER_CREATABLE_GET_CLASS(obj));
}
