/*
 * Bytes of the page-state table that are read together.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef RMEM_WORDS_H
#define RMEM_WORDS_H

#include <stdint.h>

#define WORD_PAGES 8        /* table bytes in a word */

typedef uint64_t __attribute__((may_alias)) TableWord;

/* A word of equal bytes. */
static inline uint64_t word_of(uint8_t byte)
{
    return byte * UINT64_C(0x0101010101010101);
}

#endif
