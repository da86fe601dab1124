# SPDX-License-Identifier: GPL-2.0-or-later
"""``python -m cvmlab``, and the program that is installed."""

import signal
import sys


def main() -> int:
    """Run the command line; Ctrl-C ends it quietly even while it is still being loaded."""
    # Being told to end is Ctrl-C by other means: everything is cleaned up.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        from cvmlab.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("cvmlab: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
