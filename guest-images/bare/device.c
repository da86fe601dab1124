// SPDX-License-Identifier: GPL-2.0-or-later
// Commands that make devices access guest memory; reset, crash and power-off.

#include "bare.h"

#define PCI_ADDRESS 0xcf8
#define PCI_DATA 0xcfc
#define PCI_COMMAND 0x04
#define PCI_COMMAND_MEMORY_MASTER 0x06
#define PCI_BAR0 0x10
#define PCI_NONE 0xffffffffu

#define EDU_ID 0x11e81234u
#define EDU_DMA_SRC 0x80
#define EDU_DMA_DST 0x88
#define EDU_DMA_COUNT 0x90
#define EDU_DMA_COMMAND 0x98
#define EDU_DMA_RUN 1u
#define EDU_DMA_TO_RAM 2u
#define EDU_BUFFER 0x40000ull
#define EDU_BUFFER_BYTES 4096ull

#define FWCFG_DMA_HIGH 0x514
#define FWCFG_DMA_LOW 0x518

#define ACPI_PM1_CONTROL 0x604  // the port that SeaBIOS assigns on q35
#define ACPI_SLEEP_S5 0x2000
#define RESET_CONTROL 0xcf9
#define DEBUG_EXIT 0xf4

static uint32_t pci_read(uint32_t function, uint32_t reg)
{
    out32(PCI_ADDRESS, 0x80000000u | function << 8 | reg);
    return in32(PCI_DATA);
}

static void pci_write(uint32_t function, uint32_t reg, uint32_t value)
{
    out32(PCI_ADDRESS, 0x80000000u | function << 8 | reg);
    out32(PCI_DATA, value);
}

// Lists bus 0: DEVICE * 8 + FUNCTION = vendor ID | device ID << 16.
void do_pci(const uint64_t *arg)
{
    (void)arg;
    answer_raw("ok");
    for (uint32_t function = 0; function < 256; function++) {
        uint32_t id = pci_read(function, 0);

        if (id != PCI_NONE) {
            answer_raw(" ");
            put_number(AGENT, function);
            answer_raw("=");
            put_number(AGENT, id);
        }
    }
    answer_raw("\n");
}

// Enables DMA on the edu device and returns its registers; NULL without one.
static volatile uint8_t *edu_registers(void)
{
    for (uint32_t function = 0; function < 256; function += 8) {
        uint32_t command;

        if (pci_read(function, 0) != EDU_ID) {
            continue;
        }
        command = pci_read(function, PCI_COMMAND) & 0xffff;
        pci_write(function, PCI_COMMAND, command | PCI_COMMAND_MEMORY_MASTER);
        return (volatile uint8_t *)(uint64_t)(pci_read(function, PCI_BAR0) & ~15u);
    }
    return NULL;
}

static void edu_write(volatile uint8_t *edu, uint32_t reg, uint64_t value)
{
    *(volatile uint64_t *)(edu + reg) = value;
}

static bool in_edu_buffer(uint64_t address, uint64_t bytes)
{
    return address >= EDU_BUFFER && address < EDU_BUFFER + EDU_BUFFER_BYTES
        && bytes <= EDU_BUFFER + EDU_BUFFER_BYTES - address;
}

// Exactly one of SRC and DST must lie in the device's buffer; the other is guest
// memory. QEMU exits if a transfer leaves the buffer, so that is refused here.
void do_edu_dma(const uint64_t *arg)
{
    bool to_device = in_edu_buffer(arg[1], arg[2]);
    bool to_ram = in_edu_buffer(arg[0], arg[2]);
    volatile uint8_t *edu;
    uint64_t end = ticks() + PATIENCE;

    if (to_device == to_ram || arg[2] == 0) {
        answer_error("one side must lie in the device's buffer at 0x40000");
        return;
    }
    edu = edu_registers();
    if (!edu) {
        answer_error("there is no edu device");
        return;
    }
    edu_write(edu, EDU_DMA_SRC, arg[0]);
    edu_write(edu, EDU_DMA_DST, arg[1]);
    edu_write(edu, EDU_DMA_COUNT, arg[2]);
    edu_write(edu, EDU_DMA_COMMAND, EDU_DMA_RUN | (to_ram ? EDU_DMA_TO_RAM : 0));
    while ((*(volatile uint32_t *)(edu + EDU_DMA_COMMAND) & EDU_DMA_RUN) && ticks() < end) {
        relax();
    }
    if (*(volatile uint32_t *)(edu + EDU_DMA_COMMAND) & EDU_DMA_RUN) {
        answer_error("the edu device did not finish");
    } else {
        answer_done();
    }
}

// Arguments: control word, length, GPA of the data, GPA of the descriptor.
// Answers the control word that the descriptor holds afterwards: 0 is success,
// 1 is an error. Any other value means that the device could not read or write
// the descriptor itself.
void do_fwcfg_dma(const uint64_t *arg)
{
    const uint64_t descriptor[2] = {
        __builtin_bswap32((uint32_t)arg[0])
            | (uint64_t)__builtin_bswap32((uint32_t)arg[1]) << 32,
        __builtin_bswap64(arg[2]),
    };
    // The device takes a GPA without the shared bit.
    const uint64_t gpa = arg[3] & (SHARED_MAP - 1);
    struct fault fault = {0};
    uint64_t word = 0;

    if (!mapped(arg[3], sizeof(descriptor))) {
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        if (probe_write64(arg[3] + 8 * i, descriptor[i], &fault)) {
            fault.gpa = arg[3];
            answer_fault(&fault);
            return;
        }
    }
    out32(FWCFG_DMA_HIGH, __builtin_bswap32((uint32_t)(gpa >> 32)));
    out32(FWCFG_DMA_LOW, __builtin_bswap32((uint32_t)gpa));
    if (probe_read64(arg[3], &word, &fault)) {
        fault.gpa = arg[3];
        answer_fault(&fault);
        return;
    }
    answer_value(__builtin_bswap32((uint32_t)word));
}

static _Noreturn void halt(void)
{
    for (;;) {
        __asm__ volatile("cli; hlt");
    }
}

void do_reset(const uint64_t *arg)
{
    (void)arg;
    answer_done();
    out8(RESET_CONTROL, 0x02);
    out8(RESET_CONTROL, 0x06);
    halt();
}

// A triple fault: no exception can be delivered.
void do_crash(const uint64_t *arg)
{
    const struct __attribute__((packed)) { uint16_t limit; uint64_t base; } none = { 0, 0 };

    (void)arg;
    answer_done();
    __asm__ volatile("lidt %0; ud2" : : "m"(none));
    halt();
}

void do_off(const uint64_t *arg)
{
    (void)arg;
    answer_done();
    out16(ACPI_PM1_CONTROL, ACPI_SLEEP_S5);
    halt();
}

// Through isa-debug-exit: QEMU exits with status 2N + 1.
void do_exit(const uint64_t *arg)
{
    answer_done();
    out32(DEBUG_EXIT, (uint32_t)arg[0]);
    halt();
}

_Noreturn void stop(const char *why)
{
    put_text(LOG, why);
    put_text(LOG, "\n");
    answer_error(why);
    halt();
}
