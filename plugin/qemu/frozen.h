/*
 * Properties of objects that a running machine uses.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_FROZEN_H
#define HW_RESTRICTED_MEMORY_QEMU_FROZEN_H

#include "qom/object.h"

/*
 * From now on every property of @obj, its own and inherited ones, can be read
 * and not set, and the object cannot be deleted. BQL.
 */
void restricted_freeze(Object *obj);

#endif
