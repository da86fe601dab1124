# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m cvmlab``, and the program that is installed."""

import os
import signal
import sys


_INTERRUPTED = 130


def main() -> int:
    """Run the command line; Ctrl-C ends it quietly even while it is still being loaded."""
    # Being told to end is Ctrl-C by other means: everything is cleaned up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        from cvmlab.cli import main as run

        status = run()
    except KeyboardInterrupt:
        sys.stderr.write("cvmlab: interrupted\n")
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        # Python kills itself by SIGINT at exit if one came while exec() ran a string, as the
        # import of every dataclass does, whether it was caught or not (run_eval_code_obj).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
