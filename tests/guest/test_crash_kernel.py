# SPDX-License-Identifier: GPL-2.0-or-later
"""kdump for real: a stock kernel panics, its crash kernel boots, and the run goes on.

kexec-tools is in no image of ours; the system call is all that a test needs of it.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from cvmlab.images.boot_files import resolve
from cvmlab.results.result import Outcome
from tests.guest.program import Done, cvmlab


pytestmark = [
    pytest.mark.guest, pytest.mark.usefixtures("state_home"), pytest.mark.timeout(600),
    pytest.mark.fault("V6"),
]  # fmt: skip

LOADER = r"""
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int kernel = open(argv[1], O_RDONLY), initrd = open(argv[2], O_RDONLY);

    (void)argc;
    /* KEXEC_FILE_ON_CRASH */
    if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3], 2UL)) {
        perror("kexec_file_load");
        return 9;
    }
    return 0;
}
"""
SECOND = "console=ttyS0 loglevel=4 nokaslr reset_devices maxcpus=1"
CRASH = f"/share/load /share/kernel /share/initrd '{SECOND}' && echo c > /proc/sysrq-trigger"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a crash kernel, its initramfs, whose command says that it ran, and a loader."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler (cc) to compile the loader of a crash kernel with")
    folder = tmp_path_factory.mktemp("crash")
    source = folder / "load.c"
    source.write_text(LOADER)
    built = subprocess.run(
        ["cc", "-static", "-o", folder / "load", source],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if built.returncode:
        pytest.skip(f"the C compiler makes no static programs: {built.stderr.splitlines()[-1]}")
    second = resolve("debian", exec_command="echo the crash kernel is $((6*7)); exit 5")
    assert second.kernel is not None
    assert second.initrd is not None
    shutil.copy(second.kernel, folder / "kernel")
    shutil.copy(second.initrd, folder / "initrd")
    return folder


def crash(shared: Path, *words: str) -> Done:
    return cvmlab(
        "boot", "debian", "--on-host-access", "share", "--memory", "1G", "--timeout", "300",
        "--append", "crashkernel=256M", "--share", str(shared), "--exec", CRASH, *words,
        "--json", "-", deadline_s=400,
    )  # fmt: skip


def test_with_wait_the_crash_kernels_command_decides(shared: Path) -> None:
    done = crash(shared, "--on-panic", "wait")
    assert done.code == 5, done.err
    assert "the crash kernel is 42" in (done.result.output or "")


def test_by_default_the_panic_counts_after_the_crash_kernel_has_run(shared: Path) -> None:
    done = crash(shared)
    assert (done.code, done.result.outcome) == (255, Outcome.GUEST_PANIC)
    assert "then a crash kernel ran" in done.result.message
