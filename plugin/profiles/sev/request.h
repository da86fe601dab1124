/*
 * SEV-SNP: guest requests, answered by a service.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_REQUEST_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_REQUEST_H

#include "hw/restricted-memory/profiles/sev/guest.h"

/*
 * A fresh launch, of which the service is told before its next request. What
 * the @cpus vCPUs have asked for is forgotten. BQL.
 */
void sev_request_launch(SevGuest *sev, unsigned cpus);
/* Can a vCPU that waits for an answer go on? */
/* RestrictedProfile.forget_requests */
void sev_forget_requests(RestrictedMemory *rm);
bool sev_request_has_work(CPUState *cpu);

#endif
