/*
 * Print the ABI of rmem.h as the compiler sees it, a "name value" a line, for
 * a test in Python to compare with cvmlab.records and cvmlab.states.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "rmem.h"
#include "stacks.h"

#include <inttypes.h>
#include <stdio.h>

#define FIELD(type, name, member) \
    printf(#type "." name " %zu %zu\n", offsetof(type, member), \
           sizeof(((type *)0)->member))
#define RECORD(member) FIELD(RmemRecord, #member, member)
#define SHARED(member) FIELD(RmemShared, #member, member)
#define HEADER(member) FIELD(RmemStacksHeader, #member, member)
#define STACK(member) FIELD(RmemStack, #member, member)
#define NUMBER(name) printf(#name " %" PRIu64 "\n", (uint64_t)(name))

static void fields(void)
{
    RECORD(seq);
    RECORD(vtime_ns);
    RECORD(htime_ns);
    RECORD(gpa);
    FIELD(RmemRecord, "rip", pc);   /* as the controller and QMP call it */
    RECORD(pages);
    RECORD(vcpu);
    RECORD(device);
    RECORD(kind);
    RECORD(actor);
    RECORD(from);
    RECORD(to);
    RECORD(verdict);
    RECORD(refusal);
    RECORD(flags);
    RECORD(stack);
    SHARED(magic);
    SHARED(version);
    SHARED(record_size);
    SHARED(capacity);
    SHARED(flags);
    SHARED(table_pages);
    SHARED(owner);
    SHARED(head);
    SHARED(dropped);
    SHARED(tail);
    SHARED(pages);
    SHARED(phase);
    SHARED(generation);
    SHARED(counters);
}

static void stacks(void)
{
    HEADER(magic);
    HEADER(version);
    HEADER(slot_size);
    HEADER(slots);
    HEADER(used);
    HEADER(missed);
    STACK(hash);
    STACK(pc);
    STACK(frame);
    STACK(words);
    STACK(word);
    NUMBER(RMEM_STACKS_MAGIC);
    NUMBER(RMEM_STACKS_VERSION);
    NUMBER(RMEM_STACKS_OFFSET);
    NUMBER(RMEM_STACKS);
    NUMBER(RMEM_STACK_WORDS);
    NUMBER(RMEM_STACK_SPAN);
    NUMBER(RMEM_STACKS_BYTES);
    NUMBER(sizeof(RmemStack));
    NUMBER(sizeof(RmemStacksHeader));
}

static void states(void)
{
    NUMBER(RMEM_PENDING);
    NUMBER(RMEM_PRIVATE);
    NUMBER(RMEM_SHARED);
    NUMBER(RMEM_POISONED);
    NUMBER(RMEM_STATES);
    NUMBER(RMEM_TOUCH);
    NUMBER(RMEM_ACCEPT);
    NUMBER(RMEM_TO_SHARED);
    NUMBER(RMEM_TO_PRIVATE);
    NUMBER(RMEM_DISCARD);
    NUMBER(RMEM_POISON);
    NUMBER(RMEM_LOAD);
    NUMBER(RMEM_EVENTS);
    NUMBER(RMEM_OK);
    NUMBER(RMEM_ALREADY_ACCEPTED);
    NUMBER(RMEM_NOT_PRIVATE);
    NUMBER(RMEM_PAGE_POISONED);
    NUMBER(RMEM_OUT_OF_RANGE);
    NUMBER(RMEM_BY_POLICY);
    NUMBER(RMEM_REFUSALS);
}

static void counters(void)
{
    NUMBER(RMEM_C_ACCEPTED);
    NUMBER(RMEM_C_TO_SHARED);
    NUMBER(RMEM_C_TO_PRIVATE);
    NUMBER(RMEM_C_DISCARDED);
    NUMBER(RMEM_C_POISONED);
    NUMBER(RMEM_C_LOADED);
    NUMBER(RMEM_C_HOST_FAULTS);
    NUMBER(RMEM_C_HOST_ACCESSES);
    NUMBER(RMEM_C_GUEST_VIOLATIONS);
    NUMBER(RMEM_C_GUEST_FAULTS);
    NUMBER(RMEM_C_CONVERSIONS);
    NUMBER(RMEM_C_RESETS);
    NUMBER(RMEM_C_IMPLICIT_CONVERSIONS);
    NUMBER(RMEM_C_KERNEL_CALLS);
    NUMBER(RMEM_C_EARLY_CALLS);
    NUMBER(RMEM_COUNTERS);
}

static void kinds(void)
{
    NUMBER(RMEM_K_NONE);
    NUMBER(RMEM_K_ACCEPT);
    NUMBER(RMEM_K_CONVERT);
    NUMBER(RMEM_K_DISCARD);
    NUMBER(RMEM_K_POISON);
    NUMBER(RMEM_K_LOAD);
    NUMBER(RMEM_K_HOST_FAULT);
    NUMBER(RMEM_K_GUEST_FAULT);
    NUMBER(RMEM_K_VIOLATION);
    NUMBER(RMEM_K_PHASE);
    NUMBER(RMEM_K_RESET);
    NUMBER(RMEM_K_INVALIDATE);
    NUMBER(RMEM_K_POLICY);
    NUMBER(RMEM_K_EXIT);
    NUMBER(RMEM_K_CHECKPOINT);
    NUMBER(RMEM_K_REWIND);
    NUMBER(RMEM_K_SNAPSHOT);
    NUMBER(RMEM_KINDS);
}

static void actors(void)
{
    NUMBER(RMEM_A_VCPU);
    NUMBER(RMEM_A_DEVICE);
    NUMBER(RMEM_A_LOADER);
    NUMBER(RMEM_A_MONITOR);
    NUMBER(RMEM_A_GDB);
    NUMBER(RMEM_A_HOST);
    NUMBER(RMEM_ACTORS);
    NUMBER(RMEM_PH_LAUNCH);
    NUMBER(RMEM_PH_FIRMWARE);
    NUMBER(RMEM_PH_EFI_STUB);
    NUMBER(RMEM_PH_KERNEL);
    NUMBER(RMEM_PH_USER);
    NUMBER(RMEM_PHASES);
    NUMBER(RMEM_V_DENY);
    NUMBER(RMEM_V_SHARE);
    NUMBER(RMEM_V_ZERO);
    NUMBER(RMEM_V_STOP);
    NUMBER(RMEM_V_ALLOW);
    NUMBER(RMEM_VERDICTS);
    NUMBER(RMEM_X_IDENTIFY);
    NUMBER(RMEM_X_PORT);
    NUMBER(RMEM_X_REGISTER);
    NUMBER(RMEM_EXITS);
}

static void numbers(void)
{
    NUMBER(sizeof(RmemRecord));
    NUMBER(sizeof(RmemShared));
    NUMBER(RMEM_PAGE_SIZE);
    NUMBER(RMEM_STATE_MASK);
    NUMBER(RMEM_LAUNCH);
    NUMBER(RMEM_STALE);
    NUMBER(RMEM_F_WRITE);
    NUMBER(RMEM_F_FETCH);
    NUMBER(RMEM_F_WALK);
    NUMBER(RMEM_F_AS_PRIVATE);
    NUMBER(RMEM_F_AS_SHARED);
    NUMBER(RMEM_F_ACCEPTING);
    NUMBER(RMEM_F_IMPLICIT);
    NUMBER(RMEM_F_STATE);
    NUMBER(RMEM_F_EXIT_SHIFT);
    NUMBER(RMEM_NO_VCPU);
    NUMBER(RMEM_NO_DEVICE);
    NUMBER(RMEM_SHARED_MAGIC);
    NUMBER(RMEM_SHARED_VERSION);
    NUMBER(RMEM_RECORDS_OFFSET);
    NUMBER(RMEM_RING_LOSSLESS);
}

int main(void)
{
    fields();
    stacks();
    states();
    counters();
    kinds();
    actors();
    numbers();
    return 0;
}
