/*
 * Recorded execution: what has to be the same when it is replayed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * With -icount the only clock is the number of instructions, and with rr=record
 * or rr=replay all that reaches the guest from outside is in QEMU's log. Our
 * part: each record has the exact instruction count as its time, no host clock is
 * kept, and answers of services go through that log.
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_RECORDING_H
#define HW_RESTRICTED_MEMORY_QEMU_RECORDING_H

#include "hw/restricted-memory/qemu/backend.h"

/* Is the VM recorded or replayed? */
bool restricted_is_recorded(void);
bool restricted_is_replayed(void);
void restricted_recording_init(void);
/* The guest's clock was set back. */
void restricted_recording_tick(void);
/* Refuse a machine of which QEMU's log would not have all. */
bool restricted_recording_check(Error **errp);
/* May the host change the guest? What it does is not in the log. */
bool restricted_may_intervene(Error **errp);
/* May the guest go back to where it was? Only what is replayed can. */
bool restricted_may_go_back(Error **errp);

/*
 * Call this before an instruction has changed anything, if it may write a record
 * or raise an interrupt. With -icount the count is known where an instruction
 * ends a block of code: unless this one does, it is executed again in a block of
 * its own, and this does not return. @ra is 0 between two blocks.
 */
void restricted_count_exactly(CPUState *cpu, uintptr_t ra);

/*
 * Leave the CPU's loop; the instruction whose code is at @ra will be executed again.
 * With -icount this attempt counts as well: it has changed something, and a replay
 * makes it only if the log has it.
 */
G_NORETURN void restricted_execute_again(CPUState *cpu, uintptr_t ra);

/*
 * Records that follow are of the instruction whose code is at @ra, until 0 is given.
 * Their time is the count before it. Otherwise an instruction that raises an
 * exception would have another time when it is replayed: QEMU executes it then in a
 * block that counts nothing, because the log has the exception instead.
 */
void restricted_records_within(uintptr_t ra);

/* Give @rec its two times. */
void restricted_record_times(RmemRecord *rec);

/*
 * What was asked of CPUs is done when this returns. Main thread, which does not
 * keep the log from them meanwhile.
 */
void restricted_finish_cpu_work(void);

/*
 * Bytes from outside, for a guest that waits for them: while recording, keep
 * *@bytes in the log (NULL: there are none); while replaying, set it to those that
 * were kept.
 */
void restricted_input(GByteArray **bytes);

#endif
