# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that is not ready for confidential computing: how a failure looks.

The driver of its network card gives the card private memory, which the host then reads.
"""

import pytest


@pytest.mark.xfail(reason="Linux without a shared DMA pool", strict=True)
@pytest.mark.cvm(
    coco="generic",
    image="debian-devices",
    net="user",
    exec="ip link set eth0 up; sleep 1",
)
def test_the_network_card_uses_shared_memory_only(cvm):
    vm = cvm()
    vm.wait_exit(timeout_s=300)
    vm.pages.assert_no_host_faults()
