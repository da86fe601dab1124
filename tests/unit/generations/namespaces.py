# SPDX-License-Identifier: GPL-2.0-or-later
"""Running a piece of a test in a child with mounts of its own."""

import ctypes
import json
import os
import subprocess
import traceback
from collections.abc import Callable

import pytest


_NEWNS, _NEWUSER = 0x20000, 0x10000000
_DENIED = 77


def in_own_mounts(action: Callable[[], object]) -> object:
    """Fork, leave the mount namespace, run *action*; return its value, which must be JSON.

    Skips the test where the host allows no namespace or no mount.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        status = 1
        try:
            status = _run(action, write_end)
        except Exception:  # noqa: BLE001 - the child must tell and go, whatever it was
            os.write(write_end, json.dumps(traceback.format_exc()).encode())
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == _DENIED:
        pytest.skip("this host lets nobody make mounts of their own")
    assert status == 0, json.loads(told)
    return json.loads(told)


def _run(action: Callable[[], object], pipe: int) -> int:
    flags = _NEWNS if os.geteuid() == 0 else _NEWNS | _NEWUSER
    if ctypes.CDLL(None, use_errno=True).unshare(flags):
        return _DENIED
    if subprocess.run(
        ["mount", "--make-rprivate", "/"], capture_output=True, check=False
    ).returncode:
        return _DENIED
    os.write(pipe, json.dumps(action()).encode())
    return 0


def mount_tmpfs(point: str, options: str) -> None:
    os.makedirs(point, exist_ok=True)  # noqa: PTH103 - a text path in the child
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", point], check=True)
