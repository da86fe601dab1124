/*
 * Windows of guest stacks: who caused an event.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A record may carry the number of a *window*: what the stack held at that
 * moment, from the stack pointer upwards. The controller unwinds it. A window
 * keeps only words that may be addresses of code or of the same stack; all
 * others are zero. So it has no data of the guest, and the same chain of calls
 * is the same window, whatever the functions worked on.
 *
 * The windows are in a shared file, which is a hash table: a window is stored
 * once, in a slot that its hash chooses. The table does not grow; windows for
 * which there is no slot are counted. The plugin reads nothing from the file
 * that decides what it does, except when it takes over a file that is in use.
 *
 * Thread safety: rmem_stack_put() may be called from any thread at any time.
 */

#ifndef RMEM_STACKS_H
#define RMEM_STACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RMEM_STACKS_MAGIC   UINT64_C(0x314b434154534d52) /* "RMSTACK1" */
#define RMEM_STACKS_VERSION 1
#define RMEM_STACKS_OFFSET  4096    /* windows start one page into the file */
#define RMEM_STACKS         2048    /* slots, a power of two */
#define RMEM_STACK_WORDS    508
#define RMEM_STACK_SPAN     UINT64_C(16384) /* from here on it is another stack */

/* First page of the file. Offsets are ABI. */
typedef struct RmemStacksHeader {
    uint64_t magic;
    uint32_t version;
    uint32_t slot_size;
    uint64_t slots;
    uint64_t used;          /* slots with a window */
    uint64_t missed;        /* records whose window found no slot */
} RmemStacksHeader;

/* One slot. 4096 bytes, little-endian, written once; ABI with Python. */
typedef struct RmemStack {
    uint64_t hash;          /* written last; 0: there is no window */
    uint64_t pc;            /* guest instruction */
    uint32_t frame;         /* frame pointer, as a distance; 0: it is none */
    uint32_t words;         /* length of the window */
    uint64_t reserved;
    /*
     * From the stack pointer upwards: an address of code, or the distance from
     * the stack pointer of an address in this stack, or 0.
     */
    uint64_t word[RMEM_STACK_WORDS];
} RmemStack;

/* What a CPU has; the stack's content may come in two pieces. */
typedef struct RmemStackInput {
    uint64_t pc, sp, fp;
    uint64_t code_start, code_end;      /* where code can be */
    const uint64_t *piece[2];
    size_t words[2];
} RmemStackInput;

typedef struct RmemStacks {
    RmemStacksHeader *header;           /* NULL: no windows are kept */
    RmemStack *slots;
    uint64_t hashes[RMEM_STACKS];       /* a copy: others can write the file */
} RmemStacks;

/* Bytes of the file. */
#define RMEM_STACKS_BYTES \
    (RMEM_STACKS_OFFSET + RMEM_STACKS * sizeof(RmemStack))

/*
 * Set up @st over a mapped file, zero or in use. Returns NULL, or a static
 * sentence that says what is wrong.
 */
const char *rmem_stacks_init(RmemStacks *st, void *map, size_t bytes);

/* The number of the window of @in, from 1 on; 0 if it was not stored. */
uint32_t rmem_stack_put(RmemStacks *st, const RmemStackInput *in);

#endif
