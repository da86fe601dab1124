# SPDX-License-Identifier: GPL-2.0-or-later
"""RTMR1 and RTMR2 of a TD that OVMF starts with a Linux kernel that QEMU loads.  Pure.

The firmware measures the kernel as an EFI application (RTMR1), the kernel's EFI stub its command
line and initrd (RTMR2): OvmfPkg, and drivers/firmware/efi/libstub of Linux from 6.9 on.
"""

import hashlib
from collections.abc import Iterable
from typing import Final

from cvmlab.measurement.kernel_hashes import LoadedKernel
from cvmlab.measurement.pe_digest import pe_digest


_START: Final = b"Calling EFI Application from Boot Option"
_SEPARATOR: Final = bytes(4)
_END: Final = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
# OVMF adds it to the command line when QEMU gives an initrd.
_INITRD_ARGUMENT: Final = " initrd=initrd"


def rtmr1(loaded: LoadedKernel) -> bytes:
    """Return RTMR1; raise ConfigError for a kernel that is no EFI application."""
    actions = (_START, _SEPARATOR, *_END)
    return _extended([pe_digest(loaded.kernel), *map(_digest, actions)])


def rtmr2(loaded: LoadedKernel) -> bytes:
    """Return RTMR2 of a guest with an initrd."""
    options = f"{loaded.command_line}{_INITRD_ARGUMENT}\0".encode("utf-16-le")
    return _extended(map(_digest, (options, loaded.initrd)))


def _digest(content: bytes) -> bytes:
    return hashlib.sha384(content).digest()


def _extended(digests: Iterable[bytes]) -> bytes:
    value = bytes(hashlib.sha384().digest_size)
    for digest in digests:
        value = _digest(value + digest)
    return value
