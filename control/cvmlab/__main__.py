# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m cvmlab``, and the program that is installed."""

import gc
import os
import sys

from cvmlab.base.stop_signals import INTERRUPTED, take_stop_signals


# Loading a command makes thousands of objects that stay: to look through them for garbage, again and
# again and at the end, is a tenth of a second.
_LOOK_EVERY = 100_000


def main() -> int:
    """Run the command line; Ctrl-C ends it quietly even while it is still being loaded."""
    gc.set_threshold(_LOOK_EVERY)
    _open_streams()
    take_stop_signals()
    try:
        from cvmlab.cli import main as run

        status = run()
    except KeyboardInterrupt:
        sys.stderr.write("cvmlab: interrupted\n")
        status = INTERRUPTED
    if status == INTERRUPTED:
        # Python kills itself by SIGINT at exit if one came while exec() ran a string, as the
        # import of every dataclass does, whether it was caught or not (run_eval_code_obj).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    gc.freeze()
    return status


def _open_streams() -> None:
    """Open what was closed by ``>&-``: otherwise a memory file would get the number of a stream.

    Output never fails for a character that the terminal's encoding lacks, or that is no character,
    as in a path that is not UTF-8.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
        setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
