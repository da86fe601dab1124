# SPDX-License-Identifier: GPL-2.0-or-later
"""How a failure looks: a guest that is not ready for confidential computing.

Its network driver puts the rings and buffers of the card into private memory, which the host then
reads.
"""

import pytest


@pytest.mark.xfail(reason="this Linux has no shared DMA pool", strict=True)
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
