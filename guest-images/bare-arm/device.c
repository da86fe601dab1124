// SPDX-License-Identifier: GPL-2.0-or-later
// A DMA of QEMU's edu device (docs/specs/edu.rst), found on the first PCI bus.

#include "bare.h"

#define ECAM            0x4010000000ull
#define BAR             0x10000000ull   // where its registers are put
#define EDU_ID          0x11e81234u
#define CONFIG_COMMAND  4
#define CONFIG_BAR      0x10
#define MEMORY_MASTER   6
#define DMA_SOURCE      0x80
#define DMA_TARGET      0x88
#define DMA_SIZE        0x90
#define DMA_COMMAND     0x98
#define DMA_START       1
#define DMA_TO_RAM      2
#define EDU_BUFFER      0x40000
#define EDU_BUFFER_SIZE 0x1000

static volatile uint32_t *config_of(uint64_t bit, uint64_t device, uint64_t offset)
{
    return (volatile uint32_t *)(ECAM + bit + (device << 15) + offset);
}

static volatile uint64_t *edu_register(uint64_t bit, uint64_t offset)
{
    return (volatile uint64_t *)(BAR + bit + offset);
}

int edu_dma(uint64_t bit, uint64_t from, uint64_t to, uint64_t size)
{
    uint64_t device = 0;
    int to_ram = from - EDU_BUFFER < EDU_BUFFER_SIZE;

    while (*config_of(bit, device, 0) != EDU_ID) {
        if (++device == 32) {
            return 0;
        }
    }
    *config_of(bit, device, CONFIG_BAR) = (uint32_t)BAR;
    *config_of(bit, device, CONFIG_COMMAND) = MEMORY_MASTER;
    *edu_register(bit, DMA_SOURCE) = from;
    *edu_register(bit, DMA_TARGET) = to;
    *edu_register(bit, DMA_SIZE) = size;
    *edu_register(bit, DMA_COMMAND) = DMA_START | (to_ram ? DMA_TO_RAM : 0);
    while (*edu_register(bit, DMA_COMMAND) & DMA_START) {
    }
    return 1;
}
