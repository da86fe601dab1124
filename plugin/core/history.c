/*
 * The content of one memory file at several points in time.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * To go back to a point, the layers of later points are put into the image,
 * the newest first: then the image is the file at that point, and all pages that
 * may differ from it are copied from there.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* SEEK_DATA, fallocate */
#endif

#include "history.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HOLE UINT64_MAX

/* What a page held at the point before. Layers are in the order of pages. */
typedef struct Undo {
    uint64_t page;
    uint64_t at;            /* of its content in the layer's pages, or HOLE */
} Undo;

typedef struct Layer {
    Undo *undos;
    uint8_t *content;
    uint64_t n, stored;
} Layer;

struct RmemHistory {
    int fd;
    uint8_t *map;
    uint64_t pages;
    uint8_t *image;         /* holes have no memory there either */
    uint64_t *present;      /* bitmap: the page has storage in the image */
    uint64_t *unsure;       /* bitmap: the image went back and the file did not */
    Layer *layers;          /* by point; that of the first one is empty */
    Layer merged;           /* of two of them, for a drop that was prepared */
    unsigned points;
};

static uint8_t *page_of(uint8_t *base, uint64_t page)
{
    return base + (page << RMEM_PAGE_BITS);
}

static void bit_put(uint64_t *bitmap, uint64_t page, bool value)
{
    if (value) {
        rmem_bit_set(bitmap, page);
    } else {
        bitmap[page / 64] &= ~(UINT64_C(1) << page % 64);
    }
}

/* The first set bit from @from on, or @end. */
static uint64_t next_bit(const uint64_t *bitmap, uint64_t from, uint64_t end)
{
    while (from < end) {
        uint64_t word = bitmap[from / 64] >> from % 64;

        if (word) {
            from += (uint64_t)__builtin_ctzll(word);
            return from < end ? from : end;
        }
        from = (from | 63) + 1;
    }
    return end;
}

/* Reading a hole through the mapping would give it storage: ask the file. */
static bool has_storage(const RmemHistory *h, uint64_t page)
{
    off_t at = (off_t)(page << RMEM_PAGE_BITS);

    return lseek(h->fd, at, SEEK_DATA) == at;
}

static void layer_free(Layer *layer)
{
    free(layer->undos);
    free(layer->content);
    *layer = (Layer){ 0 };
}

RmemHistory *rmem_history_new(int fd, uint8_t *map, uint64_t pages)
{
    RmemHistory *h = calloc(1, sizeof(*h));

    if (!h) {
        return NULL;
    }
    *h = (RmemHistory){ .fd = fd, .map = map, .pages = pages };
    h->image = mmap(NULL, pages << RMEM_PAGE_BITS, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    h->present = calloc(RMEM_BITMAP_WORDS(pages), sizeof(*h->present));
    h->unsure = calloc(RMEM_BITMAP_WORDS(pages), sizeof(*h->unsure));
    if (h->image == MAP_FAILED || !h->present || !h->unsure) {
        rmem_history_free(h);
        return NULL;
    }
    return h;
}

void rmem_history_free(RmemHistory *h)
{
    if (!h) {
        return;
    }
    for (unsigned i = 0; i < h->points; i++) {
        layer_free(&h->layers[i]);
    }
    if (h->image != MAP_FAILED) {
        munmap(h->image, h->pages << RMEM_PAGE_BITS);
    }
    layer_free(&h->merged);
    free(h->layers);
    free(h->present);
    free(h->unsure);
    free(h);
}

unsigned rmem_history_points(const RmemHistory *h)
{
    return h->points;
}

/* The page of the image becomes what @from is, NULL: a hole. */
static void image_put(RmemHistory *h, uint64_t page, const uint8_t *from)
{
    if (from) {
        memcpy(page_of(h->image, page), from, RMEM_PAGE_SIZE);
    } else if (rmem_bit(h->present, page)) {
        madvise(page_of(h->image, page), RMEM_PAGE_SIZE, MADV_DONTNEED);
    }
    bit_put(h->present, page, from);
}

static void copy_file(RmemHistory *h)
{
    const off_t end = (off_t)(h->pages << RMEM_PAGE_BITS);
    off_t at = 0;

    madvise(h->image, (size_t)end, MADV_DONTNEED);
    memset(h->present, 0, RMEM_BITMAP_WORDS(h->pages) * sizeof(*h->present));
    while (at < end && (at = lseek(h->fd, at, SEEK_DATA)) >= 0 && at < end) {
        off_t hole = lseek(h->fd, at, SEEK_HOLE);

        hole = hole < 0 || hole > end ? end : hole;
        memcpy(h->image + at, h->map + at, (size_t)(hole - at));
        for (; at < hole; at += (off_t)RMEM_PAGE_SIZE) {
            rmem_bit_set(h->present, (uint64_t)at >> RMEM_PAGE_BITS);
        }
    }
}

/* Room for the content of @n pages, of which @stored are no holes. */
static bool layer_reserve(Layer *layer, uint64_t n, uint64_t stored)
{
    *layer = (Layer){ 0 };
    layer->undos = calloc(n ? n : 1, sizeof(*layer->undos));
    layer->content = malloc(stored ? stored << RMEM_PAGE_BITS : 1);
    if (!layer->undos || !layer->content) {
        layer_free(layer);
        return false;
    }
    return true;
}

static void layer_add(Layer *layer, uint64_t page, const uint8_t *content)
{
    layer->undos[layer->n++] = (Undo){ page, content ? layer->stored : HOLE };
    if (content) {
        memcpy(page_of(layer->content, layer->stored++), content,
               RMEM_PAGE_SIZE);
    }
}

static const uint8_t *layer_content(const Layer *layer, const Undo *undo)
{
    return undo->at == HOLE ? NULL : page_of(layer->content, undo->at);
}

static const uint8_t *image_content(const RmemHistory *h, uint64_t page)
{
    return rmem_bit(h->present, page) ? page_of(h->image, page) : NULL;
}

/* What the dirty pages held goes into the layer, and what they hold into the image. */
static bool add_layer(RmemHistory *h, const uint64_t *dirty, Layer *layer)
{
    uint64_t n = 0, stored = 0;

    for (uint64_t i = 0; i < RMEM_BITMAP_WORDS(h->pages); i++) {
        h->unsure[i] |= dirty[i];
        n += (uint64_t)__builtin_popcountll(h->unsure[i]);
        stored += (uint64_t)__builtin_popcountll(h->unsure[i] & h->present[i]);
    }
    if (!layer_reserve(layer, n, stored)) {
        return false;
    }
    for (uint64_t page = 0;
         (page = next_bit(h->unsure, page, h->pages)) < h->pages; page++) {
        layer_add(layer, page, image_content(h, page));
        image_put(h, page, has_storage(h, page) ? page_of(h->map, page) : NULL);
    }
    return true;
}

bool rmem_history_add(RmemHistory *h, const uint64_t *dirty)
{
    Layer *layers = realloc(h->layers, (h->points + 1) * sizeof(*layers));

    if (!layers) {
        return false;
    }
    h->layers = layers;
    layers[h->points] = (Layer){ 0 };
    if (!h->points) {
        copy_file(h);
    } else if (!add_layer(h, dirty, &layers[h->points])) {
        return false;
    }
    memset(h->unsure, 0, RMEM_BITMAP_WORDS(h->pages) * sizeof(*h->unsure));
    h->points++;
    return true;
}

/* The image becomes the file at the point before @point. */
static void undo_layer(RmemHistory *h, unsigned point)
{
    const Layer *layer = &h->layers[point];

    for (uint64_t i = 0; i < layer->n; i++) {
        const Undo *undo = &layer->undos[i];

        image_put(h, undo->page, layer_content(layer, undo));
        rmem_bit_set(h->unsure, undo->page);
    }
    layer_free(&h->layers[point]);
}

/* A signal ends fallocate() before it has done anything. */
static bool change_storage(const RmemHistory *h, int mode, uint64_t first,
                           uint64_t count)
{
    while (fallocate(h->fd, mode, (off_t)(first << RMEM_PAGE_BITS),
                     (off_t)(count << RMEM_PAGE_BITS)) < 0) {
        if (errno != EINTR) {
            return false;
        }
    }
    return true;
}

static bool restore_run(RmemHistory *h, uint64_t first, uint64_t count)
{
    if (!rmem_bit(h->present, first)) {
        return change_storage(h, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                              first, count);
    }
    /* A full host is an error here, and a signal in memcpy(). */
    if (!change_storage(h, 0, first, count)) {
        return false;
    }
    memcpy(page_of(h->map, first), page_of(h->image, first),
           count << RMEM_PAGE_BITS);
    return true;
}

bool rmem_history_back(RmemHistory *h, unsigned point, uint64_t *dirty,
                       RmemRestoredFn *fn, void *opaque)
{
    while (h->points - 1 > point) {
        undo_layer(h, --h->points);
    }
    for (uint64_t i = 0; i < RMEM_BITMAP_WORDS(h->pages); i++) {
        dirty[i] |= h->unsure[i];
        h->unsure[i] = 0;
    }
    for (uint64_t end, first = 0;
         (first = next_bit(dirty, first, h->pages)) < h->pages; first = end) {
        bool present = rmem_bit(h->present, first);

        end = first + 1;
        while (end < h->pages && rmem_bit(dirty, end)
               && rmem_bit(h->present, end) == present) {
            end++;
        }
        if (!restore_run(h, first, end - first)) {
            return false;
        }
        if (fn) {
            fn(opaque, first, end - first);
        }
    }
    return true;
}

/* One layer of two that follow each other: the older content counts. */
static bool merge(const Layer *older, const Layer *newer, Layer *merged)
{
    uint64_t i = 0, j = 0;

    if (!layer_reserve(merged, older->n + newer->n,
                       older->stored + newer->stored)) {
        return false;
    }
    while (i < older->n || j < newer->n) {
        const Undo *a = i < older->n ? &older->undos[i] : NULL;
        const Undo *b = j < newer->n ? &newer->undos[j] : NULL;

        if (a && (!b || a->page <= b->page)) {
            layer_add(merged, a->page, layer_content(older, a));
            j += b && b->page == a->page;
            i++;
        } else {
            layer_add(merged, b->page, layer_content(newer, b));
            j++;
        }
    }
    return true;
}

bool rmem_history_prepare_drop(RmemHistory *h, unsigned point)
{
    layer_free(&h->merged);
    return !point || point == h->points - 1
           || merge(&h->layers[point], &h->layers[point + 1], &h->merged);
}

void rmem_history_drop(RmemHistory *h, unsigned point)
{
    h->points--;
    if (point == h->points) {
        undo_layer(h, point);
        return;
    }
    layer_free(&h->layers[point]);
    layer_free(&h->layers[point + 1]);
    h->layers[point + 1] = h->merged;
    h->merged = (Layer){ 0 };
    memmove(&h->layers[point], &h->layers[point + 1],
            (h->points - point) * sizeof(*h->layers));
}
