/*
 * SEV-SNP: the certificates that an extended guest request returns.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_CERTIFICATES_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_CERTIFICATES_H

#include "hw/restricted-memory/profiles/sev/ghcb.h"

/* Read the file of "certs-path". */
bool sev_certificates_get(SevGuest *sev, Error **errp);
/* Give them with the report that @request asks for; false: that is the answer. */
bool sev_certificates_give(SevExit *exit, const uint8_t *request);

#endif
