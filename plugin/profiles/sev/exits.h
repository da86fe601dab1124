/*
 * SEV-ES, SEV-SNP: the exits of VMGEXIT, by the file that each is in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_EXITS_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_EXITS_H

#include "hw/restricted-memory/profiles/sev/ghcb.h"

/* exits.c: execute an instruction for the guest; false: no such exit */
bool sev_exit_instruction(SevExit *exit);
void sev_exit_mmio(SevExit *exit, bool write);

/* psc.c: no other vCPU runs */
bool sev_psc_page(SevExit *exit, uint64_t request);
void sev_psc_list(SevExit *exit);

/* ap.c */
void sev_ap_creation(SevExit *exit);
G_NORETURN void sev_ap_park(SevExit *exit);
void sev_ap_jump_table(SevExit *exit);
void sev_ap_ids(SevExit *exit);

/* request.c */
void sev_request(SevExit *exit, bool extended);

#endif
