# SPDX-License-Identifier: GPL-2.0-or-later
"""`cvmlab doctor`: what works on this machine.  Nothing is installed, fetched or built.

A check answers PASS, FAIL (cvmlab will not work, and what to do about it) or SKIP (not needed
here and now, and why).
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from cvmlab.base.errors import CvmError
from cvmlab.base.paths import cache_dir
from cvmlab.base.resources import bundle_dir
from cvmlab.debian import apt
from cvmlab.debian import sources as debsources
from cvmlab.images import boot_files
from cvmlab.qemu import firmware
from cvmlab.qemu.build import qemu_binary
from cvmlab.qemu.recipe import build_record, choice, has_backend


EXIT_CODE = 85
_MIN_PYTHON = (3, 11)
_NEEDED_DISK_BYTES = 2 << 30
_NEEDED_MEMORY_BYTES = 2 << 30
_MODULES = ("elftools", "mesonbuild", "msgspec", "numpy", "qemu.qmp", "rich", "typer", "zstandard")
# include/uapi/linux/kvm.h and asm/unistd_64.h
_KVM_CHECK_EXTENSION = 0xAE03
_KVM_CAP_GUEST_MEMFD = 234
_NR_USERFAULTFD = 323
_UFFD_USER_MODE_ONLY = 1


class CheckStatus(StrEnum):
    """What a check found."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer of one check; ``hint`` says what to do about a FAIL."""

    verdict: CheckStatus
    detail: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A question and how to find the answer; the probe raises nothing."""

    name: str
    probe: Callable[[], Finding]


def main(*, as_json: bool) -> int:
    """Run all checks, print a line each, and return 0, or 85 if one failed."""
    findings = [(check.name, check.probe()) for check in CHECKS]
    failed = any(finding.verdict is CheckStatus.FAIL for _, finding in findings)
    if as_json:
        checks = [{"name": name} | asdict(finding) for name, finding in findings]
        sys.stdout.write(json.dumps({"ok": not failed, "checks": checks}, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in report(findings))
    return EXIT_CODE if failed else 0


def report(findings: Sequence[tuple[str, Finding]]) -> list[str]:
    """Return the lines that people read."""
    lines = []
    for name, finding in findings:
        lines.append(f"{finding.verdict}  {name:<14} {finding.detail}")
        if finding.hint:
            lines.append(f"{'':<21}{finding.hint}")
    return lines


def _pass(detail: str) -> Finding:
    return Finding(CheckStatus.PASS, detail)


def _skip(detail: str) -> Finding:
    return Finding(CheckStatus.SKIP, detail)


def _fail(detail: str, hint: str | None) -> Finding:
    return Finding(CheckStatus.FAIL, detail, hint)


def _python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < _MIN_PYTHON:
        return _fail(found, "cvmlab needs Python 3.11 or later")
    return _pass(found)


def _environment() -> Finding:
    lacking = [name for name in _MODULES if not _is_there(name)]
    if lacking:
        return _fail(f"lacks {', '.join(lacking)}", "run ./cvmlab, or pip install cvmlab again")
    kind = "virtual environment" if sys.prefix != sys.base_prefix else "Python's own folders"
    return _pass(f"{kind}, {sys.prefix}")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False  # the parent of a dotted name


def _apt_packages() -> Finding:
    if shutil.which("dpkg-query") is None:
        return _skip("not a Debian system; see apt.py for what the build needs")
    missing = [package.name for package in apt.missing([apt.Need.BUILD])]
    if not missing:
        return _pass("everything that the build needs is installed")
    if _built() is not None:
        return _skip(f"QEMU is built already; missing for a new build: {' '.join(missing)}")
    hint = f"run: sudo apt-get install --no-install-recommends {' '.join(missing)}"
    return _fail(f"missing: {' '.join(missing)}", hint)


def _ccache() -> Finding:
    found = shutil.which("ccache")
    return _pass(found) if found else _skip("not installed; `cvmlab build` installs it")


def _disk() -> Finding:
    folder = cache_dir()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{free >> 30} GiB free for {cache_dir()}"
    if free < _NEEDED_DISK_BYTES:
        return _fail(
            found, "free some space, or set XDG_CACHE_HOME to another folder; a build needs 2 GiB"
        )
    if not os.access(folder, os.W_OK):
        return _fail(f"{folder} cannot be written", "set XDG_CACHE_HOME to another folder")
    return _pass(found)


def _memory() -> Finding:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    size = int(available.split()[1]) << 10
    found = f"{size >> 20} MiB available"
    if size < _NEEDED_MEMORY_BYTES:
        return _fail(
            found, "the default guest has 1 GiB; use less with --memory, or stop other programs"
        )
    return _pass(found)


def _source() -> Finding:
    if bundle_dir() is not None:
        return _skip("not needed: this package carries QEMU")
    try:
        chosen = choice()
        if chosen is not None:
            return _pass(f"{chosen.path}")
        if shutil.which("apt-get") is None:
            return _fail("there is no apt-get", "use `cvmlab build --qemu-source`")
        places = Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d")
        debsources.debian_archive(debsources.machine_sources(*places))
    except CvmError as error:
        return _fail(error.message, error.hint)
    return _pass("through apt, from the machine's own mirror")


def _built() -> Path | None:
    try:
        return qemu_binary(build=False)
    except CvmError:
        return None


def _qemu() -> Finding:
    try:
        binary = qemu_binary(build=False)
        if has_backend(binary):
            record = build_record(binary.parent.parent) or {}
            built = f"QEMU {record['version']}, {record.get('tuning', 'plain')}: " if record else ""
            return _pass(f"{built}{binary}")
    except CvmError as error:
        return _fail(error.message, error.hint)
    return _fail(f"{binary} has no plugin", "run `cvmlab build`, and unset CVMLAB_QEMU")


def _firmware() -> Finding:
    if os.environ.get("CVMLAB_ROM_DIRS"):
        missing = [str(folder) for folder in firmware.rom_dirs() if not folder.is_dir()]
        if missing:
            return _fail(f"missing: {', '.join(missing)}", "correct or unset CVMLAB_ROM_DIRS")
        return _pass("from CVMLAB_ROM_DIRS")
    if (carried := bundle_dir()) is not None:
        return _pass(f"{carried / 'share'}")
    if firmware.is_complete():
        return _pass(f"{firmware.link()}")
    return _skip("not fetched yet; `cvmlab build` fetches it")


def _kernel() -> Finding:
    for image in boot_files.listing():
        if image.is_default and image.is_cached:
            return _pass(f"{image.name}, {image.release}")
    return _skip("not fetched yet; the first boot fetches it")


def _memfd() -> Finding:
    try:
        fd = os.memfd_create("cvmlab-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        return _fail(f"memfd_create: {error.strerror}", "this kernel or sandbox forbids memfds")
    os.close(fd)
    return _pass("guest memory files can be created")


def _userfaultfd() -> Finding:
    if platform.machine() != "x86_64":
        return _skip("checked on x86_64 only")
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_NR_USERFAULTFD, os.O_CLOEXEC | _UFFD_USER_MODE_ONLY)
    if fd < 0:
        return _skip(f"not allowed here ({errno.errorcode[ctypes.get_errno()]}); it is not needed")
    os.close(fd)
    return _pass("user-mode faults can be handled")


def _guest_memfd() -> Finding:
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return _skip(f"/dev/kvm: {error.strerror}; only tests/oracle uses it")
    try:
        known = fcntl.ioctl(fd, _KVM_CHECK_EXTENSION, _KVM_CAP_GUEST_MEMFD)
    except OSError as error:
        return _skip(f"/dev/kvm: {error.strerror}; only tests/oracle uses it")
    finally:
        os.close(fd)
    if not known:
        return _skip("KVM has no guest_memfd here; only tests/oracle uses it")
    return _pass("available for tests/oracle")


def _user() -> Finding:
    if os.geteuid() == 0:
        return _pass("root; only installing packages needs it")
    return _pass("not root; root is not needed")


CHECKS = (
    Check("python", _python),
    Check("environment", _environment),
    Check("apt packages", _apt_packages),
    Check("ccache", _ccache),
    Check("disk", _disk),
    Check("memory", _memory),
    Check("qemu source", _source),
    Check("qemu", _qemu),
    Check("firmware", _firmware),
    Check("guest kernel", _kernel),
    Check("memfd", _memfd),
    Check("userfaultfd", _userfaultfd),
    Check("guest_memfd", _guest_memfd),
    Check("user", _user),
)
