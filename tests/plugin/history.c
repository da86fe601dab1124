/*
 * Random lives of a file and its points in time, against plain copies of it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#define _GNU_SOURCE

#include "history.h"
#include "tap.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGES 300
#define POINTS 6
#define STEPS 4000
#define BYTES (PAGES << RMEM_PAGE_BITS)

typedef struct Copy {
    uint8_t content[BYTES];
    bool present[PAGES];
} Copy;

static struct {
    int fd;
    uint8_t *map;
    uint64_t dirty[RMEM_BITMAP_WORDS(PAGES)];
    RmemHistory *history;
    Copy *points[POINTS];
    unsigned n;
    uint64_t seed, restored;
} life;

static uint64_t chance(uint64_t n)
{
    life.seed = life.seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (life.seed >> 33) % n;
}

static bool present(uint64_t page)
{
    off_t at = (off_t)(page << RMEM_PAGE_BITS);

    return lseek(life.fd, at, SEEK_DATA) == at;
}

static Copy *copy(void)
{
    Copy *taken = calloc(1, sizeof(*taken));

    for (uint64_t page = 0; page < PAGES; page++) {
        taken->present[page] = present(page);
        if (taken->present[page]) {
            memcpy(taken->content + (page << RMEM_PAGE_BITS),
                   life.map + (page << RMEM_PAGE_BITS), RMEM_PAGE_SIZE);
        }
    }
    return taken;
}

static bool equals(const Copy *was)
{
    Copy *now = copy();
    bool same = !memcmp(now, was, sizeof(*now));

    free(now);
    return same;
}

static void change_file(void)
{
    uint64_t page = chance(PAGES), count = 1 + chance(4);

    for (; count-- && page < PAGES; page++) {
        if (chance(3)) {
            memset(life.map + (page << RMEM_PAGE_BITS), (int)chance(256),
                   RMEM_PAGE_SIZE);
        } else {
            fallocate(life.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(page << RMEM_PAGE_BITS), (off_t)RMEM_PAGE_SIZE);
        }
        rmem_bit_set(life.dirty, page);
    }
}

static bool add_point(void)
{
    if (life.n == POINTS || !rmem_history_add(life.history, life.dirty)) {
        return life.n == POINTS;
    }
    memset(life.dirty, 0, sizeof(life.dirty));
    life.points[life.n++] = copy();
    return rmem_history_points(life.history) == life.n;
}

static void count_restored(void *opaque, uint64_t first, uint64_t count)
{
    *(uint64_t *)opaque += count;
    (void)first;
}

static bool go_back(void)
{
    unsigned point = (unsigned)chance(life.n);

    life.restored = 0;
    if (!rmem_history_back(life.history, point, life.dirty, count_restored,
                           &life.restored)) {
        return false;
    }
    memset(life.dirty, 0, sizeof(life.dirty));
    while (life.n - 1 > point) {
        free(life.points[--life.n]);
    }
    return equals(life.points[point]);
}

static bool drop_point(void)
{
    unsigned point = (unsigned)chance(life.n);
    Copy *before = copy();
    bool good = rmem_history_prepare_drop(life.history, point);

    if (good && !chance(4)) {
        free(before);
        return true;            /* prepared, and not done */
    }
    rmem_history_drop(life.history, point);
    good = good && equals(before);
    free(before);
    free(life.points[point]);
    life.n--;
    memmove(&life.points[point], &life.points[point + 1],
            (life.n - point) * sizeof(life.points[0]));
    return good;
}

static bool step(void)
{
    uint64_t what = chance(20);

    if (what < 14) {
        change_file();
        return true;
    }
    if (what < 17 || !life.n) {
        return add_point();
    }
    return what < 19 ? go_back() : drop_point();
}

static bool begin(uint64_t seed)
{
    life.seed = seed;
    life.n = 0;
    memset(life.dirty, 0, sizeof(life.dirty));
    life.fd = memfd_create("life", MFD_CLOEXEC);
    if (life.fd < 0 || ftruncate(life.fd, BYTES) < 0) {
        return false;
    }
    life.map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, life.fd, 0);
    life.history = rmem_history_new(life.fd, life.map, PAGES);
    return life.history;
}

static void end(void)
{
    rmem_history_free(life.history);
    munmap(life.map, BYTES);
    close(life.fd);
}

static bool live(uint64_t seed)
{
    bool good = begin(seed);

    for (unsigned i = 0; good && i < STEPS; i++) {
        good = step();
    }
    while (life.n) {
        free(life.points[--life.n]);
    }
    end();
    return good;
}

/* The test itself: a page that nobody said is dirty stays as it is. */
static bool misses_what_is_not_said(void)
{
    bool missed;

    if (!begin(0)) {
        return false;
    }
    rmem_history_add(life.history, life.dirty);
    life.map[0] = 1;
    missed = rmem_history_back(life.history, 0, life.dirty, NULL, NULL)
             && life.map[0] == 1;
    end();
    return missed;
}

int main(void)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        char what[64];

        snprintf(what, sizeof(what), "%d steps, seed %d", STEPS, (int)seed);
        tap_ok(live(seed), what);
    }
    tap_ok(misses_what_is_not_said(), "control: a dirty page that is not said");
    return tap_done();
}
