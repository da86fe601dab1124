/*
 * TDX: what the host is told about a TD, in QEMU's place.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_QUERY_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_QUERY_H

/* The machine is complete. */
void tdx_query_init(void);

#endif
