/*
 * TDG.VP.VMCALL: requests of a TD to its host.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GHCI, TDG.VP.VMCALL. Where it leaves the answer open, the answer is KVM's (Linux,
 * arch/x86/kvm/vmx/tdx.c, handle_tdvmcall and below).
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "hw/restricted-memory/qemu/compat-cpu.h"
#include "system/runstate.h"
#include "hw/restricted-memory/qemu/stop.h"
#include "hw/restricted-memory/profiles/tdx/leaves.h"
#include "hw/restricted-memory/profiles/tdx/quote.h"
#include "hw/restricted-memory/profiles/tdx/virtual.h"
#include "hw/restricted-memory/profiles/tdx/vmcall.h"
#include "hw/restricted-memory/trace.h"

/* RCX may not name RAX, RCX, RSP. */
#define SELECT_FORBIDDEN        UINT64_C(0xffffffff00000013)

/* GetTdVmCallInfo, leaf 1 */
#define INFO_GET_QUOTE          (UINT64_C(1) << 0)
#define INFO_EVENT_NOTIFY       (UINT64_C(1) << 1)

#define FIRST_FREE_VECTOR       32
#define LAST_VECTOR             255

/* KVM's answer to a vendor-specific call: an unknown hypercall. */
#define KVM_ENOSYS              1000

/* R12, R13: leaf, subleaf. R12 to R15: EAX, EBX, ECX, EDX. */
static uint64_t vmcall_cpuid(TdxCall *call)
{
    uint32_t eax, ebx, ecx, edx;

    cpu_x86_cpuid(call->env, tdx_in(call, R_R12), tdx_in(call, R_R13),
                  &eax, &ebx, &ecx, &edx);
    tdx_out(call, R_R12, eax);
    tdx_out(call, R_R13, ebx);
    tdx_out(call, R_R14, ecx);
    tdx_out(call, R_R15, edx);
    return TDX_VMCALL_SUCCESS;
}

/*
 * R12: interrupts are blocked. If they are not, an interrupt ends the halt even
 * with RFLAGS.IF clear; Linux calls with it clear.
 */
static uint64_t vmcall_hlt(TdxCall *call)
{
    CPUX86State *env = call->env;

    call->vcpu->halt_wakes = !tdx_in(call, R_R12);
    env->eip += call->length;
    call->vcpu->halt_eip = env->eip;
    env->regs[R_EAX] = TDX_SUCCESS;
    tdx_out(call, R_R10, TDX_VMCALL_SUCCESS);
    env->hflags &= ~HF_INHIBIT_IRQ_MASK;
    call->cpu->halted = 1;
    call->cpu->exception_index = EXCP_HLT;
    cpu_loop_exit(call->cpu);
}

bool tdx_has_work(CPUState *cpu)
{
    const TdxGuest *tdx = tdx_guest();
    const TdxVcpu *vcpu = &tdx->vcpus[cpu->cpu_index];

    return vcpu->halt_wakes && cpu_env(cpu)->eip == vcpu->halt_eip
           && cpu->interrupt_request & CPU_INTERRUPT_HARD;
}

static bool size_is_valid(uint64_t size, uint64_t max)
{
    return size && size <= max && !(size & (size - 1));
}

static MemTxResult host_access(TdxCall *call, AddressSpace *as, hwaddr addr,
                               uint64_t *value, unsigned size, bool write)
{
    uint8_t buf[8];
    MemTxResult result;

    call->cpu->mem_io_pc = call->ra;
    stq_le_p(buf, *value);
    result = address_space_rw(as, addr, MEMTXATTRS_UNSPECIFIED, buf, size,
                              write);
    trace_rmem_tdx_access(addr, size, write, ldq_le_p(buf), result);
    if (!write) {
        *value = 0;
        memcpy(value, buf, size);
        *value = le64_to_cpu(*value);
    }
    return result;
}

/* R12 size, R13 1 to write, R14 port, R15 value. R11: value read. */
static uint64_t vmcall_io(TdxCall *call)
{
    uint64_t size = tdx_in(call, R_R12), write = tdx_in(call, R_R13);
    uint64_t port = tdx_in(call, R_R14), value = tdx_in(call, R_R15);

    if (!size_is_valid(size, 4) || write > 1 || port > UINT16_MAX) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    host_access(call, &address_space_io, port, &value, size, write);
    if (!write) {
        tdx_out(call, R_R11, value);
    }
    return TDX_VMCALL_SUCCESS;
}

/* R12 size, R13 1 to write, R14 GPA, R15 value. R11: value read. */
static uint64_t vmcall_mmio(TdxCall *call)
{
    uint64_t size = tdx_in(call, R_R12), write = tdx_in(call, R_R13);
    uint64_t gpa = tdx_in(call, R_R14) & ~tdx_shared_bit(call->tdx);
    uint64_t value = tdx_in(call, R_R15);

    if (!size_is_valid(size, 8) || write > 1
        || gpa >= tdx_shared_bit(call->tdx)) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    host_access(call, &address_space_memory, gpa, &value, size, write);
    if (!write) {
        tdx_out(call, R_R11, value);
    }
    return TDX_VMCALL_SUCCESS;
}

/* R12 index. R11: value. */
static uint64_t vmcall_rdmsr(TdxCall *call)
{
    uint64_t value = 0;

    if (!tdx_host_msr(call->cpu, tdx_in(call, R_R12), false, &value)) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    tdx_out(call, R_R11, value);
    return TDX_VMCALL_SUCCESS;
}

/* R12 index, R13 value. */
static uint64_t vmcall_wrmsr(TdxCall *call)
{
    uint64_t value = tdx_in(call, R_R13);

    return tdx_host_msr(call->cpu, tdx_in(call, R_R12), true, &value)
           ? TDX_VMCALL_SUCCESS : TDX_VMCALL_INVALID_OPERAND;
}

/* R12 0: what every host has, all registers 0. R12 1: optional functions. */
static uint64_t vmcall_info(TdxCall *call)
{
    uint64_t leaf = tdx_in(call, R_R12);

    if (leaf > 1) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    tdx_out(call, R_R11, leaf ? INFO_GET_QUOTE | INFO_EVENT_NOTIFY : 0);
    tdx_out(call, R_R12, 0);
    tdx_out(call, R_R13, 0);
    tdx_out(call, R_R14, 0);
    return TDX_VMCALL_SUCCESS;
}

/* R12 buffer, shared; R13 its size. */
static uint64_t vmcall_get_quote(TdxCall *call)
{
    uint64_t shared = tdx_shared_bit(call->tdx);
    uint64_t gpa = tdx_in(call, R_R12), size = tdx_in(call, R_R13);

    if (!(gpa & shared) || gpa >= shared << 1 || !size
        || size > (shared << 1) - gpa) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    if ((gpa | size) & (RMEM_PAGE_SIZE - 1)) {
        return TDX_VMCALL_ALIGN_ERROR;
    }
    return tdx_get_quote(call->tdx, gpa & ~shared, size);
}

/* R12 code, R13 a GPA, the rest a message. The guest does not continue. */
static uint64_t vmcall_fatal_error(TdxCall *call)
{
    static const int text[] = {
        R_R14, R_R15, R_EBX, R_EDI, R_ESI, R_R8, R_R9, R_EDX,
    };
    char message[sizeof(text) / sizeof(text[0]) * 8 + 1] = "";

    for (size_t i = 0; i < ARRAY_SIZE(text); i++) {
        stq_le_p(message + 8 * i, tdx_in(call, text[i]));
    }
    for (char *c = message; *c; c++) {
        *c = g_ascii_isprint(*c) ? *c : '?';
    }
    restricted_stop_because(RESTRICTED_MEMORY_STOP_REASON_FATAL_ERROR,
                            (RestrictedPlace){ call->cpu, call->env->eip },
                            "TD guest reports a fatal error 0x%" PRIx64 ": %s",
                            tdx_in(call, R_R12), message);
    bql_lock();
    qemu_system_guest_panicked(NULL);
    bql_unlock();
    return TDX_VMCALL_SUCCESS;
}

/* R12: vector to send to this vCPU when a quote has arrived. */
static uint64_t vmcall_event_notify(TdxCall *call)
{
    uint64_t vector = tdx_in(call, R_R12);

    if (vector < FIRST_FREE_VECTOR || vector > LAST_VECTOR) {
        return TDX_VMCALL_INVALID_OPERAND;
    }
    call->tdx->notify_apic = env_archcpu(call->env)->apic_id;
    qatomic_set(&call->tdx->notify_vector, vector);
    return TDX_VMCALL_SUCCESS;
}

static const struct {
    uint64_t function;
    uint64_t (*call)(TdxCall *call);
} functions[] = {
    { TDX_EXIT_CPUID, vmcall_cpuid },
    { TDX_EXIT_HLT, vmcall_hlt },
    { TDX_EXIT_IO, vmcall_io },
    { TDX_EXIT_RDMSR, vmcall_rdmsr },
    { TDX_EXIT_WRMSR, vmcall_wrmsr },
    { TDX_EXIT_EPT_VIOLATION, vmcall_mmio },
    { 0x10000, vmcall_info },
    { 0x10001, tdx_vmcall_map_gpa },
    { 0x10002, vmcall_get_quote },
    { 0x10003, vmcall_fatal_error },
    { 0x10004, vmcall_event_notify },
};

/* R10: 0 for GHCI's functions, R11: the function. Out: R10 status. */
uint64_t tdx_vmcall(TdxCall *call)
{
    uint64_t status = TDX_VMCALL_UNSUPPORTED;

    if (call->env->regs[R_ECX] & SELECT_FORBIDDEN) {
        return TDX_OPERAND_INVALID | TDX_RCX;
    }
    if (tdx_in(call, R_R10)) {
        tdx_out(call, R_R10, -KVM_ENOSYS);
        return TDX_SUCCESS;
    }
    for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
        if (functions[i].function == tdx_in(call, R_R11)) {
            status = functions[i].call(call);
            break;
        }
    }
    if (status == TDX_DEFERRED) {
        return TDX_DEFERRED;
    }
    tdx_out(call, R_R10, status);
    return TDX_SUCCESS;
}
