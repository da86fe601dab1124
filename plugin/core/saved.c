/*
 * The page-state table, the counters and the phase at a point in time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Holes of the table are not copied: all pages of a hole are pending.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* SEEK_DATA, fallocate */
#endif

#include "history.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHUNK 4096          /* smallest piece of the table file that has storage */

struct RmemSaved {
    uint8_t *table;
    uint64_t pages;
    uint64_t *present;      /* bitmap: the chunk was no hole */
    int64_t states[RMEM_STATES];
    uint64_t counters[RMEM_COUNTERS];
    uint64_t phase;
};

static uint64_t chunks(uint64_t pages)
{
    return (pages + CHUNK - 1) / CHUNK;
}

static size_t chunk_bytes(uint64_t pages, uint64_t chunk)
{
    uint64_t rest = pages - chunk * CHUNK;

    return (size_t)(rest < CHUNK ? rest : CHUNK);
}

/* The first chunk from @chunk on that has data; past the end if there is none. */
static uint64_t next_data(const Rmem *rm, uint64_t chunk)
{
    off_t at;

    if (rm->table_fd < 0) {
        return chunk;
    }
    at = lseek(rm->table_fd, (off_t)(chunk * CHUNK), SEEK_DATA);
    return at < 0 ? chunks(rm->pages) : (uint64_t)at / CHUNK;
}

RmemSaved *rmem_save(const Rmem *rm)
{
    const uint64_t n = chunks(rm->pages);
    RmemSaved *saved = calloc(1, sizeof(*saved));

    if (!saved) {
        return NULL;
    }
    saved->pages = rm->pages;
    saved->table = mmap(NULL, n * CHUNK, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    saved->present = calloc(RMEM_BITMAP_WORDS(n), sizeof(*saved->present));
    if (saved->table == MAP_FAILED || !saved->present) {
        rmem_saved_free(saved);
        return NULL;
    }
    for (uint64_t i = 0; (i = next_data(rm, i)) < n; i++) {
        memcpy(saved->table + i * CHUNK, rm->table + i * CHUNK,
               chunk_bytes(rm->pages, i));
        rmem_bit_set(saved->present, i);
    }
    memcpy(saved->states, rm->shared->pages, sizeof(saved->states));
    memcpy(saved->counters, rm->shared->counters, sizeof(saved->counters));
    saved->phase = rm->phase;
    return saved;
}

void rmem_saved_free(RmemSaved *saved)
{
    if (!saved) {
        return;
    }
    if (saved->table != MAP_FAILED) {
        munmap(saved->table, chunks(saved->pages) * CHUNK);
    }
    free(saved->present);
    free(saved);
}

/* The chunk was a hole: make it one again, so that storage does not grow. */
static void clear_chunk(Rmem *rm, uint64_t chunk)
{
    if (rm->table_fd < 0
        || fallocate(rm->table_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)(chunk * CHUNK), CHUNK) < 0) {
        memset(rm->table + chunk * CHUNK, 0, chunk_bytes(rm->pages, chunk));
    }
}

void rmem_restore(Rmem *rm, const RmemSaved *saved)
{
    const uint64_t n = chunks(rm->pages);

    for (uint64_t i = 0; (i = next_data(rm, i)) < n; i++) {
        if (!rmem_bit(saved->present, i)) {
            clear_chunk(rm, i);
        }
    }
    for (uint64_t i = 0; i < n; i++) {
        if (rmem_bit(saved->present, i)) {
            memcpy(rm->table + i * CHUNK, saved->table + i * CHUNK,
                   chunk_bytes(rm->pages, i));
        }
    }
    memcpy(rm->shared->pages, saved->states, sizeof(saved->states));
    memcpy(rm->shared->counters, saved->counters, sizeof(saved->counters));
    __atomic_store_n(&rm->phase, saved->phase, __ATOMIC_RELEASE);
    __atomic_store_n(&rm->shared->phase, saved->phase, __ATOMIC_RELEASE);
    __atomic_fetch_add(&rm->generation, 1, __ATOMIC_RELEASE);
    __atomic_fetch_add(&rm->shared->generation, 1, __ATOMIC_RELEASE);
}
