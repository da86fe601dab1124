/*
 * TDX: GetQuote, answered by a service.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_QUOTE_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_QUOTE_H

#include "hw/restricted-memory/profiles/tdx/guest.h"

/* Ask for a quote, which arrives later. Returns the status of the VMCALL. */
uint64_t tdx_get_quote(TdxGuest *tdx, uint64_t gpa, uint64_t size);
/* The guest that asked is gone. BQL. */
void tdx_forget_quotes(TdxGuest *tdx);

/* RestrictedProfile.forget_requests */
void tdx_forget_requests(RestrictedMemory *rm);

#endif
