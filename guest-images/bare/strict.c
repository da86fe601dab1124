// SPDX-License-Identifier: GPL-2.0-or-later
// Exits of this guest itself, in a VM that raises #VE or #VC for them: port I/O, HLT and MSRs
// outside of probes. It asks the host by TDVMCALL, or by a GHCB of its own.

#include "bare.h"

#define MSR_GHCB 0xc0010130
#define MSR_SEV_STATUS 0xc0010131
#define STATUS_SNP (1u << 2)
#define PSC_SHARED 0x20000000000014
#define REGISTER 0x12

enum { TDCALL_VMCALL = 0, TDCALL_VEINFO = 3 };
enum { EXIT_HLT = 12, EXIT_IO = 30, EXIT_RDMSR = 31, EXIT_WRMSR = 32 };
enum { SVM_IO = 0x7b, SVM_MSR = 0x7c };
enum { RAX = 0x1f8, RCX = 0x308, RDX = 0x310, CODE = 0x390, INFO1 = 0x398, INFO2 = 0x3a0 };
enum { BITMAP = 0x3f0, VERSION = 0xff8 };

static uint8_t ghcb_page[PAGE_BYTES] __attribute__((aligned(PAGE_BYTES)));
static uint64_t ghcb;           // its address without the C-bit, 0: not shared yet
static uint64_t registered;     // the page that a test has registered, 0: none
static bool is_strict;          // an exit of ours was handled

// The reason of the last #VE, which the TDX module has to be asked for before the next one.
uint64_t take_reason(void)
{
    uint64_t regs[11] = { TDCALL_VEINFO };
    struct fault fault;

    return is_strict && !probe_tdcall(regs, &fault) ? regs[1] : 0;
}

static uint64_t *vmcall(uint64_t regs[11], uint64_t function, uint64_t r12, uint64_t r13,
                        uint64_t r14, uint64_t r15)
{
    struct fault fault;

    for (unsigned i = 0; i < 11; i++) {
        regs[i] = 0;
    }
    regs[1] = 0xfc00;           // R10 to R15
    regs[6] = function;
    regs[7] = r12;
    regs[8] = r13;
    regs[9] = r14;
    regs[10] = r15;
    return probe_tdcall(regs, &fault) || regs[5] ? NULL : regs;
}

static void set_low(uint64_t *rax, uint64_t value, unsigned bytes)
{
    uint64_t mask = bytes == 4 ? UINT32_MAX : (1ull << 8 * bytes) - 1;

    *rax = bytes == 4 ? value & mask : (*rax & ~mask) | (value & mask);
}

bool handle_ve(struct frame *frame)
{
    uint64_t ve[11] = { TDCALL_VEINFO }, regs[11], *answer;
    unsigned bytes;
    struct fault fault;

    if (probe_tdcall(ve, &fault) || ve[0]) {
        return false;
    }
    is_strict = true;
    bytes = (ve[2] & 7) + 1;
    switch (ve[1]) {
    case EXIT_HLT:
        answer = vmcall(regs, EXIT_HLT, 0, 0, 0, 0);
        break;
    case EXIT_IO:
        answer = vmcall(regs, EXIT_IO, bytes, !(ve[2] >> 3 & 1), ve[2] >> 16, frame->rax);
        if (answer && ve[2] >> 3 & 1) {
            set_low(&frame->rax, answer[6], bytes);
        }
        break;
    case EXIT_RDMSR:
        answer = vmcall(regs, EXIT_RDMSR, (uint32_t)frame->rcx, 0, 0, 0);
        if (answer) {
            frame->rax = (uint32_t)answer[6];
            frame->rdx = answer[6] >> 32;
        }
        break;
    case EXIT_WRMSR:
        answer = vmcall(regs, EXIT_WRMSR, (uint32_t)frame->rcx,
                        frame->rdx << 32 | (uint32_t)frame->rax, 0, 0);
        break;
    default:
        return false;
    }
    frame->rip += ve[5];        // R10: the length
    return answer;
}

static uint64_t msr_protocol(uint64_t request)
{
    write_msr(MSR_GHCB, request);
    __asm__ volatile("rep; vmmcall" : : : "memory");
    return read_msr(MSR_GHCB);
}

static void share_ghcb(void)
{
    uint64_t gpa = (uint64_t)ghcb_page - KERNEL_BASE;
    bool snp = read_msr(MSR_SEV_STATUS) & STATUS_SNP;
    uint64_t regs[4] = { (uint64_t)ghcb_page, 0, 0, 0 };
    struct fault fault;

    if (!ghcb) {
        map_shared(0);
        if (snp && !probe_pvalidate(regs, &fault)) {
            msr_protocol(PSC_SHARED | gpa);
        }
        ghcb = SHARED_MAP + gpa;
    }
    if (snp) {
        msr_protocol(REGISTER | gpa);
    }
}

static void set(unsigned field, uint64_t value)
{
    *(volatile uint64_t *)(ghcb + field) = value;
    *(volatile uint8_t *)(ghcb + BITMAP + field / 64) |= 1u << field / 8 % 8;
}

static uint64_t get(unsigned field)
{
    return *(volatile uint64_t *)(ghcb + field);
}

static bool vmgexit(uint64_t code, uint64_t info1, const struct frame *frame)
{
    *(volatile uint64_t *)(ghcb + BITMAP) = 0;
    *(volatile uint64_t *)(ghcb + BITMAP + 8) = 0;
    set(RAX, frame->rax);
    set(RCX, frame->rcx);
    set(RDX, frame->rdx);
    set(CODE, code);
    set(INFO1, info1);
    set(INFO2, 0);
    *(volatile uint64_t *)(ghcb + VERSION) = 2 << 16;
    msr_protocol((uint64_t)ghcb_page - KERNEL_BASE);
    return !(uint32_t)get(INFO1);
}

static bool handle_io(struct frame *frame)
{
    const uint8_t *at = (const uint8_t *)frame->rip;
    bool word = *at == 0x66, in, immediate;
    unsigned bytes;
    uint64_t info;

    at += word;
    in = !(*at & 2);
    bytes = *at & 1 ? word ? 2 : 4 : 1;
    immediate = !(*at & 8);
    info = (immediate ? at[1] : frame->rdx & 0xffff) << 16 | bytes << 4 | in;
    if ((*at & 0xf4) != 0xe4 || !vmgexit(SVM_IO, info, frame)) {
        return false;
    }
    if (in) {
        set_low(&frame->rax, get(RAX), bytes);
    }
    frame->rip += word + 1 + immediate;
    return true;
}

static bool handle_msr(struct frame *frame)
{
    bool write = *(const uint8_t *)(frame->rip + 1) == 0x30;

    if (!vmgexit(SVM_MSR, write, frame)) {
        return false;
    }
    if (!write) {
        frame->rax = get(RAX);
        frame->rdx = get(RDX);
    }
    frame->rip += 2;
    return true;
}

void keep_registered(uint64_t gpa)
{
    registered = gpa;
}

bool handle_vc(struct frame *frame)
{
    bool done;

    if (frame->error != SVM_IO && frame->error != SVM_MSR) {
        return false;
    }
    share_ghcb();
    done = frame->error == SVM_IO ? handle_io(frame) : handle_msr(frame);
    if (registered) {
        msr_protocol(REGISTER | registered);
    }
    return done;
}
