# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of how a guest uses its memory.  For your own guest, replace image= by kernel=, initrd=."""

import pytest


@pytest.mark.cvm(coco=["generic", "tdx"], image="debian", exec="grep -q MemTotal /proc/meminfo")
def test_the_guest_boots_and_the_host_is_kept_out(cvm):
    vm = cvm()
    assert vm.wait_exit(timeout_s=300).guest_status == 0
    vm.pages.assert_no_host_faults()
    vm.pages.assert_counts(poisoned=0, guest_violations=0, accepted=range(1, 100_000))


@pytest.mark.cvm(coco="tdx", image="debian", exec="sleep 300")
class TestOneGuest:
    """These tests share one VM: cvm_session boots it for the first and ends it after the last."""

    def test_only_the_guest_converts(self, cvm_session):
        vm = cvm_session()
        vm.wait_hello(timeout_s=300)
        vm.select(kind="convert", actor="host").assert_empty()
        vm.select(kind="convert", phase="kernel").assert_at_most(pages=32_768)

    def test_pages_that_the_host_converted_are_shared(self, cvm_session):
        vm = cvm_session()
        vm.wait_hello(timeout_s=300)
        vm.convert("512M+2M", "shared")
        vm.pages.assert_shared("512M+2M")


@pytest.mark.cvm(coco="tdx", image="debian", exec="sleep 300")
class TestEachItsOwnCopy:
    """The guest is booted once; cvm_forked gives each test a copy of it, which ends with the test."""

    def test_the_host_converts_pages(self, cvm_forked):
        vm = cvm_forked()
        vm.convert("512M+2M", "shared")
        vm.pages.assert_shared("512M+2M")

    def test_the_next_test_finds_the_guest_as_it_was(self, cvm_forked):
        vm = cvm_forked()
        vm.select(kind="convert", actor="monitor").assert_empty()
