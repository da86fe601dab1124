# SPDX-License-Identifier: GPL-2.0-or-later
"""Every boot option, a row each.  To add one, add a row, and the field that it names.

guest_option_rows.py has the rows of what is booted; this module has those of the run.

The command line, Request, Vm(**options), the matrix file with its schema, and the pytest mark are
made from these rows; tests/unit/boot/test_boot_options.py follows each row into all of its forms.
"""

from collections.abc import Iterable

from cvmlab.machine.guest_option_rows import GUEST, MACHINE, PROFILE
from cvmlab.machine.option import Form, Group, Option, ValueKind
from cvmlab.machine.option_forms import EVERYWHERE, REQUEST, RUN, VERDICT, words
from cvmlab.memory.measures import BUDGET_METAVAR, MEASURES, Measures


_LIMIT_HELP = "in the run or in one phase; repeatable"


def budget_options(measures: Measures = MEASURES) -> Iterable[Option]:
    """Yield an option for each budget of the table of measures."""
    for budget in measures.budgets:
        yield Option(
            name=budget.parameter,
            group=Group.VERDICT,
            forms=VERDICT,
            kind=ValueKind.LIMIT,
            metavar=BUDGET_METAVAR,
            repeatable=True,
            help=f"Limit on {budget.limits}, {_LIMIT_HELP}",
        )


# fmt: off
_JUDGED = (
    Option(
        name="expect", group=Group.VERDICT, forms=VERDICT, kind=ValueKind.PATTERN, metavar="REGEX",
        help="Pass when REGEX appears on the console, and stop there",
    ),
    Option(
        name="timeout", group=Group.VERDICT, forms=VERDICT, kind=ValueKind.SECONDS, metavar="SECONDS",
        default="120", help="Fail after this time (default: {default})",
    ),
    Option(
        name="allow_unaware", group=Group.VERDICT, forms=EVERYWHERE, kind=ValueKind.SWITCH,
        help="Pass even if the guest's kernel never speaks the interface of its profile",
    ),
    Option(
        name="fail_on", group=Group.VERDICT, forms=EVERYWHERE, kind=ValueKind.PATTERN, metavar="REGEX",
        repeatable=True,
        help="Fail if the kernel logs a line with REGEX; repeatable; oopses, BUGs, lockups, RCU stalls, "
        "UBSAN, lockdep and hung tasks always fail, but for `none`",
    ),
    Option(
        name="on_panic", group=Group.VERDICT, forms=EVERYWHERE, kind=ValueKind.WORD,
        choices=words("OnPanic"), metavar="POLICY",
        help="When the guest's kernel panics: {choices} (default: {default})",
    ),
    *budget_options(),
    Option(
        name="baseline", group=Group.VERDICT, forms=VERDICT, kind=ValueKind.FILE, metavar="FILE",
        help="Fail if counts exceed those in FILE; `cvmlab baseline update` writes it",
    ),
)

_OUTPUT = (
    Option(
        name="json", group=Group.OUTPUT, forms=Form.COMMAND, metavar="FILE|-",
        help="Write result.json to FILE, or to standard output and the report to standard error",
    ),
    Option(
        name="junit", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.PLACE, metavar="FILE",
        help="Write JUnit XML",
    ),
    Option(
        name="trace", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.PLACE, metavar="FILE",
        help="Write a trace for ui.perfetto.dev",
    ),
    Option(
        name="html", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.PLACE, metavar="FILE",
        help="Write the report as one HTML file",
    ),
    Option(
        name="run_dir", group=Group.OUTPUT, forms=RUN, kind=ValueKind.PLACE, metavar="DIR",
        help="Keep console, logs and events in DIR",
    ),
    Option(
        name="keep", group=Group.OUTPUT, forms=RUN, kind=ValueKind.SWITCH,
        help="Keep the run folder even if the boot passes",
    ),
    Option(
        name="keep_state", group=Group.OUTPUT, forms=RUN, kind=ValueKind.SWITCH,
        help="If the boot fails, save the guest in the run folder, for `cvmlab restore`",
    ),
    Option(
        name="record", group=Group.OUTPUT, forms=RUN, kind=ValueKind.PLACE, metavar="DIR",
        help="Record what the guest executes in DIR, for `cvmlab replay`",
    ),
    Option(
        name="verbose", short="-v", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Show the console and complete lists",
    ),
    Option(
        name="progress", group=Group.OUTPUT, forms=Form.COMMAND, kind=ValueKind.WORD, metavar="STYLE",
        choices=words("Style", "base.progress"),
        help="How to show progress on standard error: {choices}",
    ),
)

_PUBLISHING = (
    Option(
        name="mqtt", group=Group.PUBLISHING, forms=Form.COMMAND, metavar="HOST[:PORT]",
        help="Publish to the MQTT broker at HOST",
    ),
    Option(
        name="mqtt_user", group=Group.PUBLISHING, forms=Form.COMMAND, metavar="NAME",
        help="User name",
    ),
    Option(
        name="mqtt_password_file", group=Group.PUBLISHING, forms=Form.COMMAND, kind=ValueKind.PLACE,
        metavar="FILE", help="File whose first line is the password (default: $CVMLAB_MQTT_PASSWORD)",
    ),
    Option(
        name="mqtt_tls", group=Group.PUBLISHING, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Use TLS",
    ),
    Option(
        name="mqtt_ca", group=Group.PUBLISHING, forms=Form.COMMAND, kind=ValueKind.PLACE, metavar="FILE",
        help="CA certificate file; implies TLS",
    ),
    Option(
        name="mqtt_commands", group=Group.PUBLISHING, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Obey convert, pause, cont and stop from the broker; needs a password",
    ),
)

_DEBUGGING = (
    Option(
        name="gdb", group=Group.DEBUGGING, forms=Form.COMMAND | Form.SPEC, kind=ValueKind.GDB,
        help="Wait for gdb on port 1234, and let it see private memory",
    ),
    Option(
        name="symbols", group=Group.DEBUGGING, forms=REQUEST, kind=ValueKind.FILE, metavar="FILE",
        help="ELF file or System.map with the guest's function names",
    ),
    Option(
        name="qemu", group=Group.DEBUGGING, forms=RUN | Form.MATRIX, kind=ValueKind.PROGRAM,
        metavar="PROGRAM", help="QEMU to run (default: the one that `cvmlab build` makes)",
    ),
    Option(
        name="qemu_version", group=Group.DEBUGGING, forms=RUN | Form.MATRIX, metavar="VERSION",
        help="QEMU version to build and run: 10.0 or 11.1 (default: 10.0)",
    ),
    Option(
        name="dry_run", group=Group.DEBUGGING, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Check everything and print the QEMU command",
    ),
    Option(
        name="debug", group=Group.DEBUGGING, forms=Form.COMMAND, kind=ValueKind.SWITCH,
        help="Show tracebacks",
    ),
)
# fmt: on

OPTIONS = (
    *GUEST, *PROFILE, *MACHINE, *_JUDGED, *_OUTPUT, *_PUBLISHING, *_DEBUGGING,
)  # fmt: skip
BY_NAME = {option.name: option for option in OPTIONS}


def having(form: Form) -> tuple[Option, ...]:
    """Return the options that have one of the forms in *form*."""
    return tuple(option for option in OPTIONS if option.forms & form)
