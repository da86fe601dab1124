/*
 * SEV: what the host is told about an emulated guest.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_QUERY_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_QUERY_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/* The machine is complete: answer in QEMU's place. */
void sev_query_init(void);

#endif
