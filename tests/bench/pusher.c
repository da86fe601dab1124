/*
 * Push records into a ring as fast as a vCPU could: pusher RING_FD RECORDS
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "rmem.h"

int main(int argc, char **argv)
{
    static uint8_t table[4096];
    Rmem rm;
    struct stat st;
    int fd = argc > 2 ? atoi(argv[1]) : -1;
    unsigned long records = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    const char *problem;
    void *ring;

    if (fstat(fd, &st) < 0) {
        return 2;
    }
    ring = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    problem = rmem_init(&rm, rmem_profile_at(0), ring, (size_t)st.st_size, table,
                        sizeof(table), -1, RMEM_RING_LOSSLESS);
    if (problem) {
        fprintf(stderr, "%s\n", problem);
        return 2;
    }
    for (unsigned long i = 0; i < records; i++) {
        RmemRecord rec = {
            .kind = RMEM_K_ACCEPT, .gpa = i << RMEM_PAGE_BITS, .pages = 1,
            .to = RMEM_PRIVATE, .vtime_ns = i, .htime_ns = i,
        };

        if (!rmem_ring_push(&rm, &rec)) {
            return 1;
        }
    }
    return 0;
}
