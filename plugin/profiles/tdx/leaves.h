/*
 * TDX: the leaves of TDCALL, by the file that each is in.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_RESTRICTED_MEMORY_PROFILES_TDX_LEAVES_H
#define HW_RESTRICTED_MEMORY_PROFILES_TDX_LEAVES_H

#include "hw/restricted-memory/profiles/tdx/call.h"

/* Each returns the completion status, or TDX_DEFERRED. */

/* vmcall.c */
uint64_t tdx_vmcall(TdxCall *call);

/* map-gpa.c: one of the host's functions */
uint64_t tdx_vmcall_map_gpa(TdxCall *call);

/* ve.c */
uint64_t tdx_veinfo_get(TdxCall *call);
uint64_t tdx_cpuidve_set(TdxCall *call);

/* memory.c */
uint64_t tdx_page_accept(TdxCall *call);

/* measure.c */
uint64_t tdx_rtmr_extend(TdxCall *call);
uint64_t tdx_report(TdxCall *call);

/* metadata.c */
uint64_t tdx_vm_rd(TdxCall *call);
uint64_t tdx_vm_wr(TdxCall *call);
uint64_t tdx_vp_rd_wr(TdxCall *call);
uint64_t tdx_sys_rd(TdxCall *call);
uint64_t tdx_sys_rdall(TdxCall *call);

/* partition.c */
uint64_t tdx_page_attr_rd(TdxCall *call);
uint64_t tdx_page_attr_wr(TdxCall *call);
uint64_t tdx_vp_enter(TdxCall *call);
uint64_t tdx_vp_invept(TdxCall *call);
uint64_t tdx_vp_invgla(TdxCall *call);

#endif
