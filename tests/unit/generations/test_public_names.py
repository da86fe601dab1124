# SPDX-License-Identifier: GPL-2.0-or-later
"""What `from cvmlab.generations import ...` offers."""

import subprocess
import sys

import pytest

from cvmlab import generations
from cvmlab.generations import VcpuExit, VmType, emulate
from cvmlab.generations.vms.kvm import Kvm


@pytest.mark.parametrize("name", generations.__all__)
def test_each_public_name_is_there(name: str) -> None:
    assert getattr(generations, name)


def test_a_kernel_and_a_vm_need_no_other_import() -> None:
    kvm = emulate(generation="F", version="JUL26")
    assert isinstance(kvm, Kvm)
    assert isinstance(kvm.create_vm(VmType.SW_PROTECTED).read(1 << 40), VcpuExit)


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Journal'"):
        generations.Journal  # noqa: B018 - asking is the test


def test_importing_the_package_imports_none_of_its_modules() -> None:
    code = "import sys, cvmlab.generations; print([m for m in sys.modules if 'generations.' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "[]\n"
