/*
 * Names of states, events and refusals, and the rules from transitions.toml.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "rmem.h"

#include <string.h>

#include "transitions.inc"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *const state_names[RMEM_STATES] = {
    [RMEM_PENDING] = "pending",
    [RMEM_PRIVATE] = "private",
    [RMEM_SHARED] = "shared",
    [RMEM_POISONED] = "poisoned",
};

static const char *const event_names[RMEM_EVENTS] = {
    [RMEM_TOUCH] = "touch",
    [RMEM_ACCEPT] = "accept",
    [RMEM_TO_SHARED] = "to-shared",
    [RMEM_TO_PRIVATE] = "to-private",
    [RMEM_DISCARD] = "discard",
    [RMEM_POISON] = "poison",
    [RMEM_LOAD] = "load",
};

static const char *const refusal_names[RMEM_REFUSALS] = {
    [RMEM_OK] = "ok",
    [RMEM_ALREADY_ACCEPTED] = "already-accepted",
    [RMEM_NOT_PRIVATE] = "not-private",
    [RMEM_PAGE_POISONED] = "page-poisoned",
    [RMEM_OUT_OF_RANGE] = "out-of-range",
    [RMEM_BY_POLICY] = "by-policy",
};

const RmemProfile *rmem_profile_at(unsigned i)
{
    return i < COUNT(profiles) ? &profiles[i] : NULL;
}

const RmemProfile *rmem_profile_find(const char *name)
{
    for (unsigned i = 0; i < COUNT(profiles); i++) {
        if (strcmp(profiles[i].name, name) == 0) {
            return &profiles[i];
        }
    }
    return NULL;
}

const char *rmem_state_name(RmemState state)
{
    return state < RMEM_STATES ? state_names[state] : "unknown";
}

const char *rmem_event_name(RmemEvent event)
{
    return event < RMEM_EVENTS ? event_names[event] : "unknown";
}

const char *rmem_refusal_name(RmemRefusal refusal)
{
    return refusal < RMEM_REFUSALS ? refusal_names[refusal] : "unknown";
}
