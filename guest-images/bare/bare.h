/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bare-metal test guest: reads a command a line from COM2, does exactly
 * that to guest memory, devices or CPUs, and answers in one line on COM2.
 * The commands are listed in README.md.
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

/* The exception a probe met. */
struct fault {
    uint64_t vector, error, rip;
    uint64_t cr2;               /* #PF only, else 0 */
    uint64_t gpa;               /* what the command was accessing */
    uint64_t bank, status, addr, misc, mcg_status;  /* #MC only */
};

void traps_init(void);          /* the boot CPU's IDT, PIC, machine check banks */
void traps_init_ap(void);
uint64_t stray_machine_checks(void);    /* #MC that no probe met */
_Noreturn void stop(const char *why);   /* says so on both ports, then halts */

int probe_read64(uint64_t address, uint64_t *value, struct fault *fault);
int probe_read8(uint64_t address, uint64_t *value, struct fault *fault);
int probe_write64(uint64_t address, uint64_t value, struct fault *fault);
int probe_add64(uint64_t address, uint64_t *value, struct fault *fault);
int probe_exec(uint64_t address, uint64_t *value, struct fault *fault);
int probe_cpuid(uint64_t regs[4], struct fault *fault);
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

void ports_init(void);
void put_text(enum port port, const char *text);
void put_number(enum port port, uint64_t number);
/* A line without its end, at most @size - 1 bytes; false: longer, rest dropped. */
bool read_line(char *line, size_t size);
bool byte_waiting(enum port port);

/* Answers, one a command. */
void answer_ok(unsigned count, const uint64_t *values);
void answer_value(uint64_t value);
void answer_done(void);
void answer_fault(const struct fault *fault);
void answer_error(const char *sentence);
void answer_raw(const char *text);
bool all_went_well(void);       /* no command was answered by fault or error */

/* ---- commands; @arg are the parsed arguments ---- */

typedef void command_fn(const uint64_t *arg);

#define FILL_PATTERN UINT64_MAX /* in place of a byte */

command_fn do_read, do_write, do_add, do_fill, do_sum, do_touch, do_exec, do_call, do_churn, do_loop;
command_fn do_tdcall, do_map_shared, do_vmcall, do_vmmcall, do_cpuid, do_rdmsr, do_wrmsr;
command_fn do_pvalidate, do_rmpadjust, do_rmpquery, do_vmgexit;
command_fn do_outb, do_inb, do_outl, do_inl, do_reset, do_off, do_exit;
command_fn do_fwcfg_dma, do_edu_dma, do_pci;
command_fn do_smp, do_ap_loop, do_ap_stop;

struct start_info;
_Noreturn void boot_main(const struct start_info *info);
_Noreturn void ap_main(void);

/* True, or an error was answered: [gpa, gpa + bytes) is in a map. */
bool mapped(uint64_t gpa, uint64_t bytes);

/* ---- script.c: commands of the kernel command line ---- */

/* What a PVH loader leaves (Xen's hvm_start_info), as far as we look. */
struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line;
};

/* The commands after " -- ", NULL if there are none. */
const char *script_of(const struct start_info *info);
/* Copies the next command to @line; false: there is none. */
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

/* Bounds a wait: some seconds on any host, whatever the counter's rate. */
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
