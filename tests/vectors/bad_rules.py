# SPDX-License-Identifier: GPL-2.0-or-later
"""Texts that are no rules, and what both readers of transitions.toml say about them."""

DEFAULT = """\
[default]
touch      = ["private", "private", "shared", "page-poisoned"]
accept     = ["private", "already-accepted", "not-private", "page-poisoned"]
to-shared  = ["shared", "shared", "shared", "page-poisoned"]
to-private = ["pending", "private", "pending", "page-poisoned"]
discard    = ["pending", "pending", "shared", "pending"]
poison     = ["poisoned", "poisoned", "poisoned", "poisoned"]
load       = ["private", "private", "private", "page-poisoned"]
"""
PROFILE = '[profiles.x]\nlayout = "split"\n'
_CELLS = "need one cell for each of pending, private, shared, poisoned"


def _own_row(row: str) -> str:
    return f"{DEFAULT}{PROFILE}{row}\n"


BAD_RULES = [
    ("", "the tables must be [default] and [profiles.NAME]"),
    (DEFAULT, "the tables must be [default] and [profiles.NAME]"),
    (f"{DEFAULT}[profiles]\n", "there is no profile"),
    (f"{DEFAULT}{PROFILE}[more]\n", "the tables must be [default] and [profiles.NAME]"),
    (DEFAULT.replace("load ", "lead ") + PROFILE, "default: event 'lead' is missing or unknown"),
    (
        DEFAULT.replace("load ", "#load ") + PROFILE,
        "default: event 'load' is missing or unknown",
    ),
    (f"{DEFAULT}[profiles.x]\n", "profile x: layout must be one of in-place, split"),
    (
        f'{DEFAULT}[profiles.x]\nlayout = "both"\n',
        "profile x: layout must be one of in-place, split",
    ),
    (_own_row('tuch = ["shared"]'), "profile x: unknown key 'tuch'"),
    (_own_row("scrambles = 1"), "profile x: scrambles must be true or false"),
    (_own_row('touch = ["shared"]'), f"profile x, touch: {_CELLS}"),
    (_own_row('touch = "shared"'), f"profile x, touch: {_CELLS}"),
    (
        _own_row('touch = ["shared", "shard", "shared", "shared"]'),
        "profile x, touch, private: 'shard' is neither a state nor a refusal",
    ),
    (
        _own_row('touch = ["shared", "shared", 2, "shared"]'),
        "profile x, touch, shared: 2 is neither a state nor a refusal",
    ),
    (
        _own_row('touch = ["ok", "shared", "shared", "shared"]'),
        "profile x, touch, pending: 'ok' is neither a state nor a refusal",
    ),
    (
        _own_row('touch = ["out-of-range", "shared", "shared", "shared"]'),
        "profile x, touch, pending: 'out-of-range' is neither a state nor a refusal",
    ),
]
