/*
 * What common files of QEMU ask about restricted memory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Patches include only this header, hooks-cpu.h or the one of an architecture.
 * Without a restricted backend on the command line each hook costs one
 * predictable branch.
 */

#ifndef HW_RESTRICTED_MEMORY_QEMU_HOOKS_H
#define HW_RESTRICTED_MEMORY_QEMU_HOOKS_H

/*
 * A user-mode emulator has no machine and no backend. Only code that is compiled
 * for each target can ask for its kind: elsewhere QEMU poisons the word.
 */
#ifdef COMPILING_PER_TARGET
#ifdef CONFIG_USER_ONLY
#define RESTRICTED_MEMORY_NEVER
#endif
#endif

#ifdef RESTRICTED_MEMORY_NEVER
#define restricted_memory_enabled() false
#else
/* Set once, before any CPU is realized, by the first backend. */
extern bool restricted_memory_active;

static inline bool restricted_memory_enabled(void)
{
    return unlikely(restricted_memory_active);
}
#endif

/*
 * The host wants to see CPU state, for @what ("registers"). If it is hidden:
 * journal that, set @errp, return true.
 */
bool restricted_memory_refuse_state(const char *what, Error **errp);

/*
 * For a debugger that goes back in a replay: the name of the last checkpoint at or
 * before that number of instructions, and its own number; NULL if there is none.
 */
char *restricted_memory_checkpoint_before(int64_t instructions, int64_t *at);
/* Go to the checkpoint of that name, or without a backend to the snapshot. */
void restricted_memory_go_back(const char *name, Error **errp);

#endif
