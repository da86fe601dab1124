/*
 * Windows of guest stacks: the file, and putting a window into it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "stacks.h"

#include <string.h>

#define PROBES 16               /* slots that a hash may choose from */
#define FULL (RMEM_STACKS / 8 * 7)

_Static_assert(sizeof(RmemStack) == 4096, "ABI");
_Static_assert(offsetof(RmemStack, word) == 32, "ABI");
_Static_assert(sizeof(RmemStacksHeader) <= RMEM_STACKS_OFFSET, "ABI");

const char *rmem_stacks_init(RmemStacks *st, void *map, size_t bytes)
{
    RmemStacksHeader *header = map;

    if (!map || ((uintptr_t)map & (sizeof(uint64_t) - 1))) {
        return "stack windows are not mapped";
    }
    if (bytes < RMEM_STACKS_BYTES) {
        return "the file of stack windows is too short";
    }
    st->header = header;
    st->slots = (void *)((char *)map + RMEM_STACKS_OFFSET);
    if (__atomic_load_n(&header->magic, __ATOMIC_ACQUIRE) == RMEM_STACKS_MAGIC) {
        if (header->version != RMEM_STACKS_VERSION
            || header->slot_size != sizeof(RmemStack)
            || header->slots != RMEM_STACKS) {
            return "the file of stack windows has another version";
        }
        /* Another QEMU has used it: go on with what it holds. */
        for (size_t i = 0; i < RMEM_STACKS; i++) {
            st->hashes[i] = __atomic_load_n(&st->slots[i].hash, __ATOMIC_ACQUIRE);
        }
        return NULL;
    }
    memset(st->hashes, 0, sizeof(st->hashes));
    header->version = RMEM_STACKS_VERSION;
    header->slot_size = sizeof(RmemStack);
    header->slots = RMEM_STACKS;
    header->used = 0;
    header->missed = 0;
    __atomic_store_n(&header->magic, RMEM_STACKS_MAGIC, __ATOMIC_RELEASE);
    return NULL;
}

/* What a window keeps of a stack: the words that are not zero. */
typedef struct Kept {
    uint64_t hash;
    uint32_t n, words, frame;
    uint16_t at[RMEM_STACK_WORDS];
    uint64_t word[RMEM_STACK_WORDS];
} Kept;

/* The output function of SplitMix64 (Steele, Lea, Flood: OOPSLA 2014). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void keep(Kept *kept, uint64_t word)
{
    kept->at[kept->n] = (uint16_t)kept->words;
    kept->word[kept->n++] = word;
    kept->hash = mix(kept->hash ^ (word + ((uint64_t)kept->words << 48)));
}

/* The words of one piece; volatile, because other guest CPUs go on writing. */
static void keep_piece(Kept *kept, const RmemStackInput *in, int piece)
{
    const uint64_t code = in->code_end - in->code_start;
    const volatile uint64_t *word = in->piece[piece];

    for (size_t i = 0; i < in->words[piece]
                       && kept->words < RMEM_STACK_WORDS; i++, kept->words++) {
        const uint64_t value = word[i];

        if (value - in->code_start < code) {
            keep(kept, value);
        } else if (value - in->sp - 1 < RMEM_STACK_SPAN) {
            keep(kept, value - in->sp);
        }
    }
}

static void store(RmemStack *slot, const RmemStackInput *in, const Kept *kept)
{
    slot->pc = in->pc;
    slot->frame = kept->frame;
    slot->words = kept->words;
    for (uint32_t i = 0; i < kept->n; i++) {
        slot->word[kept->at[i]] = kept->word[i];
    }
    __atomic_store_n(&slot->hash, kept->hash, __ATOMIC_RELEASE);
}

/* The slot of @kept, which is stored there if it is new; 0: there is none. */
static uint32_t find(RmemStacks *st, const RmemStackInput *in, const Kept *kept)
{
    for (uint32_t probe = 0; probe < PROBES; probe++) {
        const uint32_t slot = (kept->hash + probe) & (RMEM_STACKS - 1);
        uint64_t seen = __atomic_load_n(&st->hashes[slot], __ATOMIC_RELAXED);

        if (!seen
            && __atomic_load_n(&st->header->used, __ATOMIC_RELAXED) < FULL
            && __atomic_compare_exchange_n(&st->hashes[slot], &seen, kept->hash,
                                           false, __ATOMIC_RELAXED,
                                           __ATOMIC_RELAXED)) {
            __atomic_fetch_add(&st->header->used, 1, __ATOMIC_RELAXED);
            store(&st->slots[slot], in, kept);
            return slot + 1;
        }
        if (seen == kept->hash) {
            return slot + 1;
        }
        if (!seen) {
            break;              /* the table is full */
        }
    }
    __atomic_fetch_add(&st->header->missed, 1, __ATOMIC_RELAXED);
    return 0;
}

uint32_t rmem_stack_put(RmemStacks *st, const RmemStackInput *in)
{
    Kept kept;

    if (!st->header) {
        return 0;
    }
    kept.n = 0;
    kept.words = 0;
    kept.frame = in->fp - in->sp - 1 < RMEM_STACK_SPAN
                 ? (uint32_t)(in->fp - in->sp) : 0;
    kept.hash = mix(in->pc ^ (uint64_t)kept.frame << 32);
    keep_piece(&kept, in, 0);
    keep_piece(&kept, in, 1);
    kept.hash = mix(kept.hash ^ kept.words);
    kept.hash |= kept.hash == 0;
    return find(st, in, &kept);
}
