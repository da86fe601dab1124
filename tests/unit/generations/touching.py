# SPDX-License-Identifier: GPL-2.0-or-later
"""Touching memory with an instruction, in a child that tells which signal it got and where."""

import ctypes
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass


SIGBUS = 7
_SA_SIGINFO = 4
_libc = ctypes.CDLL(None, use_errno=True)


class _Sigaction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Signal:
    """si_signo and si_code, and how far si_addr is from the address the child named."""

    number: int
    code: int
    offset: int


def signal_in_child(prepare: Callable[[], int], offset: int) -> Signal | None:
    """Fork; the child gets an address from *prepare* and loads the byte at *offset* from it.

    Returns None if the load went well.  *prepare* runs in the child, since views are not inherited.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _touch(prepare() + offset, offset, write_end)
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        told = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, f"the child ended with {status}"
    return Signal(*struct.unpack("iiq", told)) if told else None


def _touch(address: int, offset: int, pipe: int) -> None:
    def caught(number: int, info: int, context: int) -> None:
        code = ctypes.c_int.from_address(info + 8).value
        where = ctypes.c_uint64.from_address(info + 16).value
        os.write(pipe, struct.pack("iiq", number, code, where - address + offset))
        os._exit(0)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(caught)
    action = _Sigaction(ctypes.cast(handler, ctypes.c_void_p), flags=_SA_SIGINFO)
    if _libc.sigaction(SIGBUS, ctypes.byref(action), None):
        raise OSError(ctypes.get_errno(), "sigaction")
    ctypes.string_at(address, 1)
