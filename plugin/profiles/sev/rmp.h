/*
 * SEV-SNP: the RMP, and the instructions on it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_SEV_RMP_H
#define HW_RESTRICTED_MEMORY_PROFILES_SEV_RMP_H

#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/profiles/sev/guest.h"

bool sev_instruction(RestrictedMemory *rm, const RestrictedInsn *insn);
bool sev_is_validated(const SevGuest *sev, uint64_t page);

#endif
