# SPDX-License-Identifier: GPL-2.0-or-later
"""The signals that tell cvmlab to end, whatever started it.

A shell without job control starts ``command &`` with SIGINT ignored, and every program in it inherits
that.  cvmlab ends on SIGINT all the same: a VM must not outlive the script that booted it.  A SIGHUP
that is ignored stays ignored, because that is all that nohup does.
"""

import signal


INTERRUPTED = 130


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that end this process in good order."""
    chosen = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        chosen.append(signal.SIGHUP)
    return tuple(chosen)


def take_stop_signals() -> None:
    """Make every stop signal raise KeyboardInterrupt, so that everything is cleaned up."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which asyncio looks for
    for number in stop_signals():
        if number is not signal.SIGINT:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
