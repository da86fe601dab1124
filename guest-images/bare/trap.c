// SPDX-License-Identifier: GPL-2.0-or-later
// Exceptions. A probe that faults resumes with the vector in RAX and the details
// in its struct fault. Any other exception stops the guest with a message.

#include "bare.h"

#define VECTORS 256
#define PIC_BASE 0x20
#define VECTOR_DB 1
#define VECTOR_PF 14
#define VECTOR_MC 18
#define VECTOR_VE 20
#define VECTOR_VC 29
#define IRQ_AGENT 3             // COM2

#define MSR_MCG_CAP 0x179
#define MSR_MCG_STATUS 0x17a
#define MSR_MCG_CTL 0x17b
#define MSR_MC_CTL(bank) (0x400 + 4 * (bank))
#define MSR_MC_STATUS(bank) (0x401 + 4 * (bank))
#define MSR_MC_ADDR(bank) (0x402 + 4 * (bank))
#define MSR_MC_MISC(bank) (0x403 + 4 * (bank))
#define MCG_CAP_CTL (1u << 8)
#define MC_STATUS_VALID (1ull << 63)
#define MC_STATUS_MISCV (1ull << 59)
#define MC_STATUS_ADDRV (1ull << 58)
#define MAX_STRAY 16            // machine checks outside probes before the guest stops

struct gate {
    uint16_t offset_low, selector, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

struct extable_entry {
    uint64_t at, resume;
};

extern const struct extable_entry extable_start[], extable_end[];
extern char vector_stubs[][16], probe_exec_value[], probe_exec_return[], probe_tdcall_at[];

void trap(struct frame *frame);

static struct gate idt[VECTORS];
static uint64_t stray_count, debug_status;

static void load_idt(void)
{
    const struct __attribute__((packed)) { uint16_t limit; const void *base; }
        pointer = { sizeof(idt) - 1, idt };

    __asm__ volatile("lidt %0" : : "m"(pointer));
}

static void enable_machine_checks(void)
{
    uint64_t cap = read_msr(MSR_MCG_CAP);

    if (cap & MCG_CAP_CTL) {
        write_msr(MSR_MCG_CTL, UINT64_MAX);
    }
    for (uint32_t bank = 0; bank < (cap & 0xff); bank++) {
        write_msr(MSR_MC_CTL(bank), UINT64_MAX);
        write_msr(MSR_MC_STATUS(bank), 0);
    }
}

// Masks all lines except COM2's, which ends the HLT in get_byte().
static void pic_init(void)
{
    out8(0x20, 0x11);
    out8(0xa0, 0x11);
    out8(0x21, PIC_BASE);
    out8(0xa1, PIC_BASE + 8);
    out8(0x21, 4);
    out8(0xa1, 2);
    out8(0x21, 1);
    out8(0xa1, 1);
    out8(0x21, (uint8_t)~(1u << IRQ_AGENT));
    out8(0xa1, 0xff);
}

void traps_init(void)
{
    for (unsigned vector = 0; vector < VECTORS; vector++) {
        uint64_t stub = (uint64_t)vector_stubs[vector];

        idt[vector] = (struct gate) {
            .offset_low = (uint16_t)stub,
            .offset_middle = (uint16_t)(stub >> 16),
            .offset_high = (uint32_t)(stub >> 32),
            .selector = SEL_CODE64,
            .type = 0x8e00,
        };
    }
    load_idt();
    pic_init();
    enable_machine_checks();
}

void traps_init_ap(void)
{
    load_idt();
    enable_machine_checks();
}

uint64_t take_debug_status(void)
{
    uint64_t status = debug_status;

    debug_status = 0;
    return status;
}

// Turns the breakpoints off: its own frame may be where one is.
static void keep_debug_status(void)
{
    uint64_t none = 0;

    __asm__ volatile("mov %0, %%dr7" : : "r"(none));
    __asm__ volatile("mov %%dr6, %0" : "=r"(debug_status));
    __asm__ volatile("mov %0, %%dr6" : : "r"(none));
}

uint64_t stray_machine_checks(void)
{
    return stray_count;
}

// Copies the first valid bank to @fault, then clears all banks and MCG_STATUS.
// If MCIP stayed set, the next machine check would shut the machine down.
static void drain_banks(struct fault *fault)
{
    uint32_t banks = read_msr(MSR_MCG_CAP) & 0xff;

    fault->bank = UINT64_MAX;
    for (uint32_t bank = 0; bank < banks; bank++) {
        uint64_t status = read_msr(MSR_MC_STATUS(bank));

        if (!(status & MC_STATUS_VALID)) {
            continue;
        }
        if (fault->bank == UINT64_MAX) {
            fault->bank = bank;
            fault->status = status;
            fault->addr = status & MC_STATUS_ADDRV ? read_msr(MSR_MC_ADDR(bank)) : 0;
            fault->misc = status & MC_STATUS_MISCV ? read_msr(MSR_MC_MISC(bank)) : 0;
        }
        write_msr(MSR_MC_STATUS(bank), 0);
    }
    fault->mcg_status = read_msr(MSR_MCG_STATUS);
    write_msr(MSR_MCG_STATUS, 0);
}

// Returns the address at which a fault at this RIP resumes, or 0 if it was not in
// a probe. A fault in the function that probe_exec called is recognized by the
// return address on the stack; RSP is read only when RIP is outside the image.
static uint64_t find_resume(struct frame *frame)
{
    for (const struct extable_entry *e = extable_start; e < extable_end; e++) {
        if (e->at == frame->rip) {
            return e->resume;
        }
    }
    if (frame->rip < KERNEL_BASE
        && *(uint64_t *)frame->rsp == (uint64_t)probe_exec_value) {
        frame->rsp += 8;
        return (uint64_t)probe_exec_return;
    }
    return 0;
}

// Where the probe that faulted wants the details.
static struct fault *fault_wanted(const struct frame *frame)
{
    if (frame->rip == (uint64_t)probe_tdcall_at) {
        return ((struct fault **)frame->rsp)[1];
    }
    return (struct fault *)frame->r8;
}

static _Noreturn void unexpected(const struct frame *frame, const struct fault *fault)
{
    put_text(LOG, "exception vector ");
    put_number(LOG, frame->vector);
    put_text(LOG, " error ");
    put_number(LOG, frame->error);
    put_text(LOG, " rip ");
    put_number(LOG, frame->rip);
    put_text(LOG, " rsp ");
    put_number(LOG, frame->rsp);
    put_text(LOG, " cr2 ");
    put_number(LOG, fault->cr2);
    put_text(LOG, "\n");
    stop("unexpected exception, see the console");
}

void trap(struct frame *frame)
{
    struct fault fault = {
        .vector = frame->vector, .error = frame->error, .rip = frame->rip,
    };
    uint64_t resume;

    if (frame->vector >= PIC_BASE) {
        out8(0x20, 0x20);
        return;
    }
    if (frame->vector == VECTOR_DB) {
        keep_debug_status();
        return;
    }
    if (frame->vector == VECTOR_PF) {
        __asm__ volatile("mov %%cr2, %0" : "=r"(fault.cr2));
    }
    if (frame->vector == VECTOR_MC) {
        drain_banks(&fault);
    }
    resume = find_resume(frame);
    if (resume) {
        if (frame->vector == VECTOR_VE) {
            fault.error = take_reason();
        }
        *fault_wanted(frame) = fault;
        frame->rax = frame->vector;
        frame->rip = resume;
    } else if (frame->vector == VECTOR_MC && stray_count < MAX_STRAY) {
        stray_count++;
    } else if ((frame->vector != VECTOR_VE || !handle_ve(frame))
               && (frame->vector != VECTOR_VC || !handle_vc(frame))) {
        unexpected(frame, &fault);
    }
}
