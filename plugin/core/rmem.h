/*
 * Restricted memory: page states, legal transitions, event ring.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Concepts:
 *  - A *page* is 4 KiB and is named by its index: offset in guest RAM >> 12.
 *    The core does not know guest physical addresses.
 *  - The *page-state table* has one byte per page, in a shared file, so the
 *    controller reads it without a round trip.  All zeros is a fresh VM, so
 *    the table of a 1 TiB guest needs storage only for touched pages.
 *  - A *rule* gives, for (profile, state, event), the next state or a named
 *    refusal.  The rules are data: transitions.toml is compiled to
 *    transitions.inc, and Python loads the same file.
 *  - The *shared header* (struct RmemShared) is at the start of the event-ring
 *    file: ring indexes and counters, little-endian, read by the controller.
 *
 * Table and header are shared with the controller, which may hand them to other
 * processes. What they hold is input: nothing read from them may lead the core
 * out of its memory, into an endless loop or to an assertion. What decides about
 * memory (phase, generation) is kept here as well and never read back.
 *
 * Thread safety: rmem_touch(), rmem_apply_page() and rmem_ring_push() may be
 * called from any thread at any time.  The callers of rmem_apply() and
 * rmem_reset() exclude each other and every guest CPU (they stop the vCPUs);
 * rmem_state() may run at the same time.
 *
 * No QEMU header is included: this directory is also built as a shared
 * library, under sanitizers, for the tests.
 */

#ifndef RMEM_H
#define RMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RMEM_PAGE_BITS 12
#define RMEM_PAGE_SIZE (UINT64_C(1) << RMEM_PAGE_BITS)

/* Low two bits of a table byte. The numbers are ABI with Python. */
typedef enum RmemState {
    RMEM_PENDING = 0,   /* private, not yet accepted by the guest */
    RMEM_PRIVATE = 1,   /* private and accepted */
    RMEM_SHARED = 2,    /* host and guest may touch it */
    RMEM_POISONED = 3,  /* a guest touch is a machine check, a host touch an error */
    RMEM_STATES
} RmemState;

#define RMEM_STATE_MASK 0x03
#define RMEM_LAUNCH     0x10    /* placed by the loader before the guest ran */
#define RMEM_STALE      0x20    /* changed sides and not reached there yet: noise */

/* What can happen to a page. Order is that of transitions.toml. */
typedef enum RmemEvent {
    RMEM_TOUCH,         /* a guest CPU touches it */
    RMEM_ACCEPT,        /* guest or host asks for acceptance */
    RMEM_TO_SHARED,     /* conversion */
    RMEM_TO_PRIVATE,    /* conversion */
    RMEM_DISCARD,       /* punch hole: storage is freed, state of a fresh private page */
    RMEM_POISON,        /* error page */
    RMEM_LOAD,          /* the loader writes the launch image */
    RMEM_EVENTS
} RmemEvent;

/* Why an event is refused; rmem_refusal_name() returns the name in the rules. */
typedef enum RmemRefusal {
    RMEM_OK,
    RMEM_ALREADY_ACCEPTED,
    RMEM_NOT_PRIVATE,       /* only a private page can be accepted */
    RMEM_PAGE_POISONED,
    RMEM_OUT_OF_RANGE,      /* not a rule: no such page, or no such event */
    RMEM_BY_POLICY,         /* not a rule: the host was told to refuse */
    RMEM_REFUSALS
} RmemRefusal;

typedef struct RmemRule {
    uint8_t next;           /* RmemState, meaningful when refusal is RMEM_OK */
    uint8_t refusal;        /* RmemRefusal */
} RmemRule;

/* One technology's rules; compiled from transitions.toml. */
typedef struct RmemProfile {
    const char *name;
    bool split;             /* default layout: two files, or one in place */
    bool scrambles;         /* a page that changes sides reads as noise, not as zeros */
    RmemRule rules[RMEM_EVENTS][RMEM_STATES];
} RmemProfile;

const RmemProfile *rmem_profile_find(const char *name); /* NULL: unknown */
/* The i-th profile, NULL past the end: to list what exists. */
const RmemProfile *rmem_profile_at(unsigned i);
const char *rmem_state_name(RmemState state);
const char *rmem_event_name(RmemEvent event);
const char *rmem_refusal_name(RmemRefusal refusal);

/* Counters, index of RmemShared.counters. Order is ABI. */
typedef enum RmemCounter {
    RMEM_C_ACCEPTED,        /* pages accepted, by a first touch or a request */
    RMEM_C_TO_SHARED,       /* pages converted */
    RMEM_C_TO_PRIVATE,
    RMEM_C_DISCARDED,
    RMEM_C_POISONED,
    RMEM_C_LOADED,          /* launch-image pages */
    RMEM_C_HOST_FAULTS,     /* denied host accesses, once per page, actor and direction for
                               as long as the page's state does not change */
    RMEM_C_HOST_ACCESSES,   /* the pieces in which they arrived */
    RMEM_C_GUEST_VIOLATIONS,/* guest broke a rule (refused request) */
    RMEM_C_GUEST_FAULTS,    /* memory-fault exits: touch of a pending page that is not plain acceptance */
    RMEM_C_CONVERSIONS,     /* requests, each of any number of pages; the caller counts them,
                               because a request may have several ranges */
    RMEM_C_RESETS,
    RMEM_C_IMPLICIT_CONVERSIONS, /* pages converted by use, without a request */
    RMEM_C_KERNEL_CALLS,    /* uses of the guest interface by the guest's kernel ... */
    RMEM_C_EARLY_CALLS,     /* ... and by firmware, loaders and what unpacks a kernel */
    RMEM_COUNTERS = 32      /* room to grow without an ABI change */
} RmemCounter;

typedef enum RmemActor {
    RMEM_A_VCPU,
    RMEM_A_DEVICE,
    RMEM_A_LOADER,
    RMEM_A_MONITOR,         /* QMP and HMP commands, dump */
    RMEM_A_GDB,
    RMEM_A_HOST,            /* the controller, or a host access of unknown origin */
    RMEM_ACTORS
} RmemActor;

typedef enum RmemKind {
    RMEM_K_NONE,            /* slot not yet written */
    RMEM_K_ACCEPT,
    RMEM_K_CONVERT,
    RMEM_K_DISCARD,
    RMEM_K_POISON,
    RMEM_K_LOAD,
    RMEM_K_HOST_FAULT,      /* host access to private memory; verdict is the answer */
    RMEM_K_GUEST_FAULT,     /* memory-fault exit, exception in the guest, machine check */
    RMEM_K_VIOLATION,       /* guest request refused; refusal is the reason */
    RMEM_K_PHASE,           /* boot phase begins; flags hold RmemPhase */
    RMEM_K_RESET,
    RMEM_K_INVALIDATE,      /* start/end around a host change; flags 0 start, 1 end */
    RMEM_K_POLICY,          /* access policy changed; verdict is the new one */
    RMEM_K_EXIT,            /* first instruction of a kernel that a host answers on hardware, if
                               the kernel has not spoken its interface before; flags hold
                               RmemExit and the direction, gpa its number */
    RMEM_K_CHECKPOINT,      /* a moment to which the guest can go back */
    RMEM_K_REWIND,          /* it is as it was at record gpa, a checkpoint's; pages is
                               how many pages of the files were taken back */
    RMEM_K_SNAPSHOT,        /* a copy of the VM was begun; what is restored from it
                               goes on after this record */
    RMEM_KINDS
} RmemKind;

typedef enum RmemPhase {
    RMEM_PH_LAUNCH,         /* loader places the launch image, no guest instruction ran */
    RMEM_PH_FIRMWARE,       /* guest CPU runs, loader (fw_cfg) still trusted */
    RMEM_PH_EFI_STUB,       /* a kernel's EFI stub runs and calls the firmware */
    RMEM_PH_KERNEL,         /* first fetch from the upper half: loader no longer trusted */
    RMEM_PH_USER,           /* first fetch in user mode */
    RMEM_PHASES
} RmemPhase;

/* Instructions that a host has to answer. */
typedef enum RmemExit {
    RMEM_X_IDENTIFY,        /* asks what the processor is */
    RMEM_X_PORT,
    RMEM_X_REGISTER,        /* of the system, by number */
    RMEM_EXITS
} RmemExit;

/* Policy's answer to a host access; also the access policy's number. */
typedef enum RmemVerdict {
    RMEM_V_DENY,
    RMEM_V_SHARE,           /* convert, in place, then allow */
    RMEM_V_ZERO,            /* read zeros, drop writes */
    RMEM_V_STOP,            /* deny, and pause the VM */
    RMEM_V_ALLOW,           /* debuggable VM: allowed, journaled */
    RMEM_VERDICTS
} RmemVerdict;

/* Flags of host accesses (the first and the last), guest faults and conversions. */
#define RMEM_F_WRITE     0x01   /* direction */
#define RMEM_F_FETCH     0x02   /* of an instruction */
#define RMEM_F_WALK      0x04   /* of a page table, for the instruction at pc */
#define RMEM_F_AS_PRIVATE 0x08  /* the address asked for the private view */
#define RMEM_F_AS_SHARED 0x10   /* ... for the shared view */
#define RMEM_F_ACCEPTING 0x20   /* no access: the guest asked to accept the page */
#define RMEM_F_IMPLICIT  0x40   /* a conversion by use, without a request */
#define RMEM_F_STATE     0x80   /* a host access to CPU state, not to memory */
#define RMEM_F_EXIT_SHIFT 1     /* of RmemExit, in records of RMEM_K_EXIT */
#define RMEM_NO_VCPU    0xffff
#define RMEM_NO_DEVICE  0xffff

/* One event. 64 bytes, little-endian, never changed; ABI with Python. */
typedef struct RmemRecord {
    uint64_t seq;           /* 1, 2, 3 …; written last; 0: slot not published */
    uint64_t vtime_ns;      /* guest virtual clock */
    uint64_t htime_ns;      /* host CLOCK_MONOTONIC */
    uint64_t gpa;           /* of the first page; exact address in host faults */
    uint64_t pc;            /* guest instruction, 0 if unknown */
    uint32_t pages;
    uint16_t vcpu;          /* RMEM_NO_VCPU if none */
    uint16_t device;        /* index of the actor's name, or RMEM_NO_DEVICE */
    uint8_t kind;           /* RmemKind */
    uint8_t actor;          /* RmemActor */
    uint8_t from;           /* RmemState */
    uint8_t to;             /* RmemState */
    uint8_t verdict;        /* RmemVerdict, for host faults */
    uint8_t refusal;        /* RmemRefusal, for violations */
    uint8_t flags;          /* RMEM_F_* or RmemPhase, by kind */
    uint8_t reserved0;
    uint32_t stack;         /* number of a window in stacks.h, 0 if none */
    uint8_t reserved[4];
} RmemRecord;

#define RMEM_SHARED_MAGIC   UINT64_C(0x3152494e474d4552) /* "REMGNIR1" */
#define RMEM_SHARED_VERSION 2
#define RMEM_RECORDS_OFFSET 4096    /* records start one page into the file */
#define RMEM_RING_LOSSLESS  0x01    /* producers wait for room, with a deadline */

/* First page of the event-ring file. Offsets are ABI. */
typedef struct RmemShared {
    uint64_t magic;
    uint32_t version;
    uint32_t record_size;
    uint64_t capacity;      /* records, a power of two */
    uint64_t flags;         /* RMEM_RING_* */
    uint64_t table_pages;
    uint64_t owner;         /* process that may change states; 0: handed over, not yet taken */
    uint8_t pad0[16];
    /* 64: producers */
    uint64_t head;          /* records claimed so far */
    uint64_t dropped;       /* records lost because the ring was full */
    uint8_t pad1[48];
    /* 128: consumer */
    uint64_t tail;          /* records consumed so far, written by the controller */
    uint8_t pad2[56];
    /* 192 */
    int64_t pages[RMEM_STATES];     /* pages by state, kept by the core */
    uint64_t phase;                 /* RmemPhase */
    uint64_t generation;            /* incremented after every state change but acceptance */
    uint8_t pad3[16];
    /* 256 */
    uint64_t counters[RMEM_COUNTERS];
} RmemShared;

typedef struct Rmem {
    const RmemProfile *profile;
    RmemShared *shared;
    RmemRecord *records;
    uint8_t *table;         /* one byte per page */
    uint64_t pages;
    int table_fd;           /* to skip holes; -1 if the table is plain memory */
    uint64_t ring_mask;     /* a copy: other processes can write the header */
    uint64_t stalled_tail;  /* where a lossless wait timed out */
    uint64_t flags;         /* a copy */
    uint64_t phase;         /* RmemPhase; the header has a copy of it */
    uint64_t generation;    /* as in the header, but counted in this process */
} Rmem;

/*
 * Set up @rm over mapped files. The ring file must be RMEM_RECORDS_OFFSET +
 * a power of two (>= 2) of records. A header with the magic is checked and
 * kept, otherwise it is initialised. A table that is not fresh is counted.
 * Both maps are aligned to 8 bytes. @flags are RMEM_RING_*. Returns NULL, or a
 * static sentence that says what is wrong.
 */
const char *rmem_init(Rmem *rm, const RmemProfile *profile,
                      void *ring_map, size_t ring_bytes,
                      uint8_t *table, uint64_t pages, int table_fd,
                      uint64_t flags);

/* State of @page, which is in the table. */
RmemState rmem_state(const Rmem *rm, uint64_t page);

/*
 * Mark pending pages of [first, first + count), which are in the table, as
 * placed by the launch with zeros in them: a guest may use them without
 * acceptance. Any change of state removes the mark, and so does a discard.
 */
void rmem_set_launch(Rmem *rm, uint64_t first, uint64_t count);

/* Is @page in the launch image (placed, or set by rmem_set_launch())? */
bool rmem_is_launch(const Rmem *rm, uint64_t page);

/*
 * Stale pages: where the profile scrambles, a conversion that moves a page to
 * the other side marks it. Acceptance keeps the mark, any other change of
 * state removes it. The first to reach the page puts noise there and then
 * calls rmem_settle(). The range of rmem_any_stale() is in the table.
 */
bool rmem_any_stale(const Rmem *rm, uint64_t first, uint64_t count);

/* The content of [first, first + count) is in place: remove the mark. */
void rmem_settle(Rmem *rm, uint64_t first, uint64_t count);

/*
 * A guest CPU touches @page, which is in the table. Returns the state it
 * found. If that was RMEM_PENDING and the rules accept on touch, the page is
 * now private and RMEM_C_ACCEPTED counts it. Of several callers at once only
 * one gets RMEM_PENDING, the others get RMEM_PRIVATE.
 */
RmemState rmem_touch(Rmem *rm, uint64_t page);

/*
 * Apply @event to one page, from any thread: atomic against rmem_touch() and
 * itself. *@old is the state it found; counters and flags as in rmem_apply().
 */
RmemRefusal rmem_apply_page(Rmem *rm, uint64_t page, RmemEvent event,
                            RmemState *old);

/* A run of equal state. */
typedef struct RmemRun {
    uint64_t first;
    uint64_t count;         /* 0: nothing left */
    RmemState state;
} RmemRun;

/*
 * The run that starts at @first, not beyond @first + @count or the table.
 * Holes of the table file are neither read nor allocated.
 */
RmemRun rmem_run_at(const Rmem *rm, uint64_t first, uint64_t count);

/*
 * Is @event legal on all of [first, first + count)? Changes nothing. On
 * refusal *@bad (if not NULL) is the first page that refuses, or, for
 * RMEM_OUT_OF_RANGE, the first page of the range that does not exist.
 */
RmemRefusal rmem_check(const Rmem *rm, uint64_t first, uint64_t count,
                       RmemEvent event, uint64_t *bad);

typedef void RmemRunFn(void *opaque, RmemRun run, RmemState to);

/*
 * Apply @event to [first, first + count): check as rmem_check() does, then,
 * for each run of equal old state in order, change state and counters and
 * call @fn (may be NULL). A refusal changes nothing. RMEM_LOAD also sets the
 * launch flag, any other change clears it (for RMEM_STALE, see rmem_settle()).
 * Pages whose state does not change are reported to @fn with run.state == to
 * and are not counted.
 */
RmemRefusal rmem_apply(Rmem *rm, uint64_t first, uint64_t count,
                       RmemEvent event, RmemRunFn *fn, void *opaque,
                       uint64_t *bad);

/* Every page back to pending, launch flags cleared; counts one reset. */
void rmem_reset(Rmem *rm);

RmemPhase rmem_phase(const Rmem *rm);

/* The phase is @from: make it @to. False: it is another. From any thread. */
bool rmem_set_phase(Rmem *rm, RmemPhase from, RmemPhase to);

/* Another process ran the guest until now: take the phase that it left. */
void rmem_take_phase(Rmem *rm);

/* Add to a counter, from any thread. */
void rmem_count(Rmem *rm, RmemCounter counter, uint64_t n);

/*
 * Publish *@rec (its seq is set here). Blocks only if the ring is lossless:
 * it waits up to one second for room, and after that not again before the
 * consumer has moved. False: no room, and `dropped` counts it.
 */
bool rmem_ring_push(Rmem *rm, const RmemRecord *rec);

#endif
