# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU with the plugin is built for several targets at once, and runs."""

import subprocess
from pathlib import Path

import pytest

from cvmlab.qemu.build import install
from cvmlab.qemu.recipe import Flavour, has_backend


# The build comes first: minutes, from nothing.
pytestmark = [pytest.mark.qemu, pytest.mark.long, pytest.mark.timeout(3600)]

BACKEND = "memory-backend-restricted,id=ram0,size=128M"
# Asks the CPU who it is, and writes the answer: what the hook for CPUID could break.
PROGRAM = r"""
void _start(void)
{
    unsigned name[3], zero = 0;
    long length = sizeof(name), call = 1;

    __asm__ volatile ("cpuid" : "+a"(zero), "=b"(name[0]), "=d"(name[1]), "=c"(name[2]));
    __asm__ volatile ("syscall" : "+a"(call) : "D"(1L), "S"(name), "d"(length)
                      : "rcx", "r11", "memory");
    __asm__ volatile ("syscall" :: "a"(60L), "D"(0L));
}
"""


def run(*command: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program that ends by itself."""
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture(scope="module")
def programs() -> Path:
    """Return the folder of the emulators; they are built the first time."""
    return install(Flavour.TARGETS) / "bin"


@pytest.mark.parametrize("name", Flavour.TARGETS.programs())
def test_each_emulator_links_and_runs(programs: Path, name: str) -> None:
    assert " version 1" in run(programs / name, "--version").stdout


def test_an_aarch64_machine_starts_and_ends(programs: Path) -> None:
    done = run(
        programs / "qemu-system-aarch64",
        *("-machine", "virt", "-nodefaults", "-display", "none", "-S", "-monitor", "stdio"),
        stdin="info status\nquit\n",
    )
    assert done.returncode == 0, done.stderr
    assert "VM status: paused" in done.stdout


@pytest.mark.parametrize(
    ("machine", "profile", "reason"),
    [
        ("virt", "tdx", "profile 'tdx' is unknown"),
        ("virt", "cca", "profile=cca needs a realm"),
        ("virt,secure=on", "generic", "the secure world would have a view of memory of its own"),
        ("virt,virtualization=on", "generic", "a hypervisor in the guest is not emulated"),
        ("virt,mte=on", "generic", "the tags of memory would be in no file"),
    ],
)
def test_an_aarch64_machine_refuses_in_one_sentence_what_it_lacks(
    programs: Path, machine: str, profile: str, reason: str
) -> None:
    qemu = programs / "qemu-system-aarch64"
    assert has_backend(qemu)
    done = run(
        qemu,
        *("-machine", f"{machine},memory-backend=ram0", "-m", "128M", "-nodefaults"),
        *("-cpu", "max", "-display", "none", "-object", f"{BACKEND},profile={profile}"),
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert reason in line


def test_an_x86_program_runs_in_user_mode(programs: Path, tmp_path: Path) -> None:
    source, program = tmp_path / "who.c", tmp_path / "who"
    source.write_text(PROGRAM)
    run("gcc", "-static", "-nostdlib", "-O1", "-o", program, source).check_returncode()
    done = run(programs / "qemu-x86_64", program)
    assert (done.returncode, done.stdout) == (0, "AuthenticAMD")
