# SPDX-License-Identifier: GPL-2.0-or-later
"""Every environment variable that cvmlab reads, a row each.

``cvmlab help environment`` prints them, and ``python -m cvmlab.base.environment`` prints the table of
control/README.md.
"""

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Variable:
    """``names`` belong together; ``value`` is what to set if only one value has a meaning."""

    names: tuple[str, ...]
    meaning: str
    value: str = ""

    @property
    def shown(self) -> tuple[str, ...]:
        return tuple(f"{name}={self.value}" if self.value else name for name in self.names)


VARIABLES = (
    Variable(("CVMLAB_QEMU",), "the qemu-system-x86_64 with the plugin to use, instead of building one"),
    Variable(("CVMLAB_QEMU_AARCH64",), "the same for Arm guests: the qemu-system-aarch64"),
    Variable(("CVMLAB_STOCK_QEMU",), "the qemu-system-x86_64 without the plugin to compare with"),
    Variable(("CVMLAB_ROM_DIRS",), "folders of firmware, separated by colons; none is fetched"),
    Variable(
        ("CVMLAB_QEMU_VERSION",),
        "the QEMU version to build and run, 10.0 or 11.1; `--qemu-version` takes precedence",
    ),
    Variable(
        ("CVMLAB_QEMU_TUNING",),
        "how the QEMU to build and run is optimized: `plain`, `lto` or `pgo`"
        " (default: what `cvmlab build --pgo` built, otherwise `lto`)",
    ),
    Variable(("CVMLAB_QEMU_SOURCE",), "QEMU 10.x or 11.x source: a folder, tarball or .dsc"),
    Variable(("CVMLAB_JOBS",), "number of compile jobs (default: one per CPU)"),
    Variable(
        ("CVMLAB_PROGRESS",),
        "how to show progress: `auto`, `plain`, `rich` or `none`; `--progress` takes precedence",
    ),
    Variable(
        ("CVMLAB_NO_INSTALL",), "name missing Debian packages instead of installing them", "1"
    ),
    Variable(("CVMLAB_OFFLINE",), "fetch nothing; fail if something is not in the cache", "1"),
    Variable(
        ("CVMLAB_DEBIAN_MIRROR",), "the Debian archive to use where apt is not configured with one"
    ),
    Variable(("CVMLAB_MQTT_PASSWORD",), "password for the MQTT broker"),
    Variable(("CVMLAB_PYTHON",), "for `./cvmlab`: the Python interpreter, 3.11 or later"),
    Variable(("CVMLAB_VENV",), "for `./cvmlab`: where the virtual environment is (default: .venv)"),
    Variable(("CVMLAB_REQUIRE",), "in tests: fail instead of skipping", "1"),
    Variable(("CVMLAB_SCREENSHOTS",), "in tests: renew the pictures in docs/", "1"),
    Variable(("CVMLAB_UPGRADES",), "in tests: how often a QEMU is replaced (default: 20)"),
    Variable(("CVMLAB_REWINDS",), "in tests: how often a guest is taken back (default: 1000)"),
    Variable(("CVMLAB_REPLAYS",), "in tests: how many boots are recorded and replayed (default: 20)"),
    Variable(("CVMLAB_COPIES",), "in tests: how often a guest is saved, and forked (default: 50)"),
    Variable(
        ("CVMLAB_KILLS",), "in tests: how often a saved VM's processes are killed (default: 200)"
    ),
    Variable(
        ("CVMLAB_ATTACKS", "CVMLAB_REQUESTS", "CVMLAB_SNAPSHOTS", "CVMLAB_SOAK_MINUTES"),
        "in tests: the length of the attacks of `tox -e sanitize`",
    ),
    Variable(
        ("CVMLAB_CHECK_ACCOUNTS",),
        "in tests: at the end of each VM, compare journal, table, counters and storage of its "
        "memory, and fail if they differ",
    ),
    Variable(
        ("CVMLAB_LOCK_ORDER",),
        "in tests: QEMU checks the order in which the plugin's locks are taken, and aborts if it is "
        "wrong",
    ),
    Variable(
        ("CVMLAB_CORE_LIBRARY", "CVMLAB_CORE_LAYOUT"),
        "in tests: the compiled plugin core and its layout, instead of building them",
    ),
    Variable(
        ("CVMLAB_ARGS", "CVMLAB_WHEEL"),
        "in the GitHub Action and the GitLab job: arguments of `cvmlab`, and what pip installs",
    ),
    Variable(("XDG_CACHE_HOME",), "where QEMU, packages, guest images and warm guests are kept"),
    Variable(("XDG_STATE_HOME",), "where run folders and snapshots are kept"),
    Variable(("NO_COLOR", "TERM"), "no colours if `NO_COLOR` is set, or if `TERM` is `dumb`"),
)  # fmt: skip


def markdown() -> str:
    """Return the table as control/README.md has it."""
    rows = [
        f"| {', '.join(f'`{name}`' for name in variable.shown)} | {variable.meaning} |"
        for variable in VARIABLES
    ]
    return "\n".join(["| variable | meaning |", "|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
