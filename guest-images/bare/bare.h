/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bare-metal test guest. It reads one command per line from COM2, runs it
 * on guest memory, devices or CPUs, and answers with one line on COM2. It does
 * nothing else. README.md lists the commands.
 */
#ifndef BARE_H
#define BARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "layout.h"

#define PAGE_BYTES 4096ull
#define MAP_LIMIT ((uint64_t)MAP_GIB << 30)
#define MAX_ARGS 11

/* ---- trap.c: exceptions and the safe accesses of probe.S ---- */

/* The exception that a probe caused. */
struct fault {
    uint64_t vector, error, rip;
    uint64_t cr2;               /* #PF only, else 0 */
    uint64_t gpa;               /* the address that the command accessed */
    uint64_t bank, status, addr, misc, mcg_status;  /* #MC only */
};

struct frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

/* ---- strict.c: exits of the guest itself; false: not one of those ---- */

bool handle_ve(struct frame *frame);
bool handle_vc(struct frame *frame);
void keep_registered(uint64_t gpa);     /* a GHCB page that is not ours */
uint64_t take_reason(void);     /* of the #VE of a probe; 0 if nobody asks here */

void traps_init(void);          /* the boot CPU's IDT, PIC, machine check banks */
void traps_init_ap(void);
uint64_t stray_machine_checks(void);    /* number of #MC outside any probe */
uint64_t take_debug_status(void);       /* DR6 of the #DB since the last call; 0: none */
_Noreturn void stop(const char *why);   /* prints @why on both ports, then halts */

int probe_read64(uint64_t address, uint64_t *value, struct fault *fault);
int probe_read8(uint64_t address, uint64_t *value, struct fault *fault);
int probe_write64(uint64_t address, uint64_t value, struct fault *fault);
int probe_add64(uint64_t address, uint64_t *value, struct fault *fault);
int probe_exec(uint64_t address, uint64_t *value, struct fault *fault);
int probe_cpuid(uint64_t regs[4], struct fault *fault);
int probe_watched(uint64_t *watched, struct fault *fault);
int probe_rdmsr(uint32_t index, uint64_t *value, struct fault *fault);
int probe_wrmsr(uint32_t index, uint64_t value, struct fault *fault);
int probe_vmcall(const uint64_t args[5], uint64_t *value, struct fault *fault);
int probe_tdcall(uint64_t regs[11], struct fault *fault);
int probe_pvalidate(uint64_t regs[4], struct fault *fault);
int probe_rmpadjust(uint64_t regs[4], struct fault *fault);
int probe_rmpquery(uint64_t regs[4], struct fault *fault);
int probe_vmgexit(uint64_t regs[4], struct fault *fault);
int probe_vmmcall(const uint64_t args[5], uint64_t *value, struct fault *fault);

/* ---- text.c: the two serial ports ---- */

enum port { LOG = 0x3f8, AGENT = 0x2f8 };
#define UART_DATA 0             /* offsets from the port */
#define UART_LSR 5
#define LSR_SENDER_EMPTY 0x20

void ports_init(void);
void put_text(enum port port, const char *text);
void put_number(enum port port, uint64_t number);
/*
 * Reads one line, without its newline, at most @size - 1 bytes. Returns false
 * if the line was longer; the rest of it is dropped.
 */
bool read_line(char *line, size_t size);
bool byte_waiting(enum port port);

/* Answers. Each command sends one, loop sends two. */
void answer_ok(unsigned count, const uint64_t *values);
void answer_value(uint64_t value);
void answer_done(void);
void answer_fault(const struct fault *fault);
void answer_error(const char *sentence);
void answer_raw(const char *text);
bool all_went_well(void);       /* no answer so far was a fault or an error */

/* ---- commands; @arg holds the parsed arguments ---- */

typedef void command_fn(const uint64_t *arg);

#define FILL_PATTERN UINT64_MAX /* the argument "pattern", instead of a byte */

command_fn do_read, do_write, do_add, do_fill, do_sum, do_touch, do_exec, do_call, do_call_on;
command_fn do_churn, do_loop;
command_fn do_tdcall, do_map_shared, do_vmcall, do_vmmcall, do_cpuid, do_rdmsr, do_wrmsr, do_hold;
command_fn do_watch_frame;
command_fn do_pvalidate, do_rmpadjust, do_rmpquery, do_vmgexit;
command_fn do_outb, do_inb, do_outl, do_inl, do_reset, do_crash, do_off, do_exit;
command_fn do_fwcfg_dma, do_edu_dma, do_pci;
command_fn do_smp, do_ap_loop, do_ap_stop, do_attack;

/* smp.c: the second CPU attacks as well, @count times. */
struct attack;
bool ap_attack(struct attack *attack, uint64_t count);
bool ap_attack_ended(const struct attack *attack);  /* false: it makes no more calls */

struct start_info;
_Noreturn void boot_main(const struct start_info *info);
_Noreturn void ap_main(void);

/* Maps the first GiB at SHARED_MAP, with these address bits set. */
void map_shared(uint64_t bits);
/* Returns true if [gpa, gpa + bytes) is mapped; otherwise answers an error. */
bool mapped(uint64_t gpa, uint64_t bytes);

/* ---- script.c: commands on the kernel command line ---- */

/* The first fields of Xen's hvm_start_info, which a PVH loader passes to us. */
struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line;
};

/* Returns the commands after " -- ", or NULL if there are none. */
const char *script_of(const struct start_info *info);
/* Copies the next command to @line; returns false if there is none. */
bool next_command(const char **script, char *line, size_t size);

/* ---- instructions ---- */

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;

    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint64_t read_msr(uint32_t index)
{
    uint32_t low, high;

    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (uint64_t)high << 32 | low;
}

static inline void write_msr(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((uint32_t)value),
                     "d"((uint32_t)(value >> 32)) : "memory");
}

static inline void relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* Upper bounds of waits, in TSC ticks: PATIENCE is several seconds on any host. */
#define PATIENCE (1ull << 34)
#define LOOP_PATIENCE (1ull << 38)
#define CHURN_PATIENCE (1ull << 41)

static inline uint64_t ticks(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

#endif
