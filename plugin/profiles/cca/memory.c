/*
 * CCA: the address bit of a realm, RIPAS, and memory that a call touches.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * RMM, A5.2. RIPAS is the state of a page of the backend: pending and private
 * are RAM, without and with a granule; shared is EMPTY, and the granule is at
 * the address with the top bit; poisoned is DESTROYED. What is no RAM is EMPTY.
 */

#include "qemu/osdep.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "exec/page-protection.h"
#include "hw/restricted-memory/qemu/cpu-view.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/profiles/cca/memory.h"

uint64_t cca_device_bit(const RestrictedMemory *rm)
{
    return cca_shared_bit(cca_guest());
}

/* Does the host have no memory there, because the page is the realm's? */
static bool is_unassigned(const RestrictedMemory *rm, uint64_t gpa)
{
    uint64_t page = restricted_page_at(rm, gpa);

    return page != RESTRICTED_NO_PAGE
           && rmem_state(&rm->core, page) == RMEM_PENDING;
}

/*
 * RMM, A5.2.6: an Unprotected IPA is never executed. A TLB entry for data may
 * not serve a fetch later.
 */
RestrictedAlias cca_alias(const RestrictedMemory *rm,
                          const RestrictedFill *fill)
{
    const CcaGuest *cca = cca_guest();
    uint64_t bit = cca_shared_bit(cca);
    hwaddr gpa = fill->pa & (bit - 1);

    if (!qatomic_read(&cca->armed)) {
        return (RestrictedAlias){ gpa, fill->pa & bit ? RESTRICTED_SHARED
                                                      : RESTRICTED_BY_STATE };
    }
    if (fill->pa < bit) {
        return (RestrictedAlias){ gpa, RESTRICTED_PRIVATE };
    }
    if (fill->prot) {
        *fill->prot &= ~PAGE_EXEC;
    }
    return (RestrictedAlias){ gpa, fill->access == MMU_INST_FETCH
                                   || fill->pa >= bit << 1
                                   || is_unassigned(rm, gpa)
                                   ? RESTRICTED_NEVER : RESTRICTED_SHARED };
}

/*
 * RMM, A5.2.3: EMPTY is a synchronous external abort, which the fill raises. So
 * is an Unprotected IPA where the host has nothing, if the host injects it. An
 * access to DESTROYED exits to the host, which cannot resolve it.
 */
void cca_fault(RestrictedMemory *rm, const RestrictedFill *fill,
               RestrictedAlias alias, RmemState state)
{
    restricted_guest_fault(rm, fill, alias.gpa, state);
    if (state == RMEM_POISONED && alias.want == RESTRICTED_PRIVATE) {
        restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_GUEST_FAULT,
                                (RestrictedPlace){ .cpu = fill->cpu },
                                "the realm touched 0x%" HWADDR_PRIx
                                ", whose RIPAS is DESTROYED", alias.gpa);
        restricted_fill_stop(fill, alias.gpa);
    }
}

/* What is no RAM: a device is at its address with the bit. */
hwaddr cca_mmio(RestrictedMemory *rm, const RestrictedFill *fill,
                RestrictedAlias alias)
{
    if (alias.want == RESTRICTED_PRIVATE || alias.want == RESTRICTED_NEVER) {
        cca_fault(rm, fill, alias, RMEM_SHARED);
        return RESTRICTED_NOWHERE;
    }
    return alias.gpa;
}

static bool call_rw(CcaCall *call, uint64_t ipa, void *buf, size_t size,
                    bool write)
{
    RestrictedMemory *rm = call->cca->rm;
    uint64_t page = restricted_page_at(rm, ipa);

    if (page == RESTRICTED_NO_PAGE
        || restricted_cpu_touch(rm, page) != RMEM_PRIVATE) {
        return false;
    }
    return address_space_rw(cpu_get_address_space(call->cpu, ARMASIdx_NS),
                            RESTRICTED_PRIVATE_VIEW + ipa,
                            MEMTXATTRS_UNSPECIFIED, buf, size,
                            write) == MEMTX_OK;
}

bool cca_read(CcaCall *call, uint64_t ipa, void *buf, size_t size)
{
    return call_rw(call, ipa, buf, size, false);
}

bool cca_write(CcaCall *call, uint64_t ipa, const void *buf, size_t size)
{
    return call_rw(call, ipa, (void *)buf, size, true);
}
