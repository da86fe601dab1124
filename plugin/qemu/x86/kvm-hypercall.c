/*
 * x86: KVM's CPUID signature, and the hypercall by which its guests convert.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Behaviour as in arch/x86/kvm/x86.c of Linux 6.12 (kvm_emulate_hypercall)
 * and Documentation/virt/kvm/x86/hypercalls.rst.
 */

#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "qapi/error.h"
#include "hw/restricted-memory/qemu/convert.h"
#include "hw/restricted-memory/qemu/events.h"
#include "hw/restricted-memory/qemu/x86/kvm-hypercall.h"
#include "hw/restricted-memory/qemu/x86/ops.h"
#include "hw/restricted-memory/trace.h"

#define KVM_CPUID_SIGNATURE     0x40000000
#define KVM_CPUID_FEATURES      0x40000001

#define KVM_HC_MAP_GPA_RANGE    12
#define KVM_MAP_GPA_ENCRYPTED   (1u << 4)
#define KVM_MAP_GPA_PAGE_SIZE   0x0f

#define KVM_EPERM               1
#define KVM_EINVAL              22
#define KVM_ENOSYS              1000

bool restricted_kvm_cpuid(uint32_t index, uint32_t features, uint32_t regs[4])
{
    switch (index) {
    case KVM_CPUID_SIGNATURE:
        regs[R_EAX] = KVM_CPUID_FEATURES;
        memcpy(&regs[R_EBX], "KVMK", 4);
        memcpy(&regs[R_ECX], "VMKV", 4);
        memcpy(&regs[R_EDX], "M\0\0\0", 4);
        return true;
    case KVM_CPUID_FEATURES:
        memset(regs, 0, 4 * sizeof(regs[0]));
        regs[R_EAX] = features;
        return true;
    default:
        return false;
    }
}

typedef struct MapRequest {
    RestrictedMemory *rm;
    uint64_t gpa, npages, attributes;
    uint64_t rip;
} MapRequest;

static void map_violation(const MapRequest *req, RmemRefusal refusal)
{
    restricted_violation(req->rm, req->gpa, req->npages, refusal, req->rip);
}

/*
 * QEMU's kvm_convert_memory() lets a guest share what is no RAM: device memory
 * is shared already. Linux does so for video memory.
 */
static bool map_is_no_ram(const MapRequest *req, uint64_t size)
{
    RestrictedPages pages;

    for (unsigned i = 0; i < req->rm->nslots; i++) {
        if (restricted_slot_part(&req->rm->slots[i], req->gpa, size, &pages)) {
            return false;
        }
    }
    return true;
}

static int64_t map_convert(const MapRequest *req)
{
    uint64_t size = req->npages << RMEM_PAGE_BITS;
    RestrictedPages pages;
    RestrictedChange change = {
        .ranges = &pages, .n = 1, .actor = RMEM_A_VCPU, .pc = req->rip,
        .event = req->attributes & KVM_MAP_GPA_ENCRYPTED ? RMEM_TO_PRIVATE
                                                         : RMEM_TO_SHARED,
        .preserve = !restricted_is_split(req->rm),
    };
    Error *err = NULL;

    if (change.event == RMEM_TO_SHARED && size >> RMEM_PAGE_BITS == req->npages
        && map_is_no_ram(req, size)) {
        return 0;
    }
    if (size >> RMEM_PAGE_BITS != req->npages
        || !restricted_pages(req->rm, req->gpa, size, &pages)) {
        map_violation(req, RMEM_OUT_OF_RANGE);
        return -KVM_EINVAL;
    }
    if (!restricted_change(req->rm, &change, &err)) {
        error_free(err);
        map_violation(req, change.refusal);
        return -KVM_EINVAL;
    }
    return 0;
}

/* No other vCPU runs, and this one is between two instructions. */
static void map_exclusive(CPUState *cpu, run_on_cpu_data data)
{
    g_autofree MapRequest *req = data.host_ptr;
    int64_t ret = map_convert(req);

    trace_rmem_hypercall(KVM_HC_MAP_GPA_RANGE, req->gpa, req->npages,
                         req->attributes, ret);
    cpu_env(cpu)->regs[R_EAX] = ret;
}

static int64_t map_gpa_range(RestrictedMemory *rm, CPUState *cpu,
                             const uint64_t args[4])
{
    MapRequest req = {
        .rm = rm, .gpa = args[0], .npages = args[1], .attributes = args[2],
        .rip = cpu_env(cpu)->eip,
    };

    if (req.gpa & (RMEM_PAGE_SIZE - 1) || !req.npages
        || (req.gpa >> RMEM_PAGE_BITS) + req.npages
           <= req.gpa >> RMEM_PAGE_BITS
        || req.attributes & ~(uint64_t)(KVM_MAP_GPA_ENCRYPTED
                                        | KVM_MAP_GPA_PAGE_SIZE)) {
        map_violation(&req, RMEM_OUT_OF_RANGE);
        return -KVM_EINVAL;
    }
    async_safe_run_on_cpu(cpu, map_exclusive,
                          RUN_ON_CPU_HOST_PTR(g_memdup2(&req, sizeof(req))));
    return 0;
}

bool restricted_kvm_hypercall(RestrictedMemory *rm, CPUState *cpu)
{
    CPUX86State *env = cpu_env(cpu);
    uint64_t nr = env->regs[R_EAX];
    uint64_t args[4] = {
        env->regs[R_EBX], env->regs[R_ECX], env->regs[R_EDX], env->regs[R_ESI],
    };
    int64_t ret = -KVM_ENOSYS;

    if (!(env->hflags & HF_CS64_MASK)) {
        nr = (uint32_t)nr;
        for (int i = 0; i < 4; i++) {
            args[i] = (uint32_t)args[i];
        }
    }
    if (env->hflags & HF_CPL_MASK) {
        ret = -KVM_EPERM;
    } else if (nr == KVM_HC_MAP_GPA_RANGE) {
        restricted_count_call(rm, env->eip);
        ret = map_gpa_range(rm, cpu, args);
    }
    env->regs[R_EAX] = ret;
    return true;
}
