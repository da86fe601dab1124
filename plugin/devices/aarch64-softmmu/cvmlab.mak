# SPDX-License-Identifier: GPL-2.0-or-later
#
# The devices of an aarch64 QEMU: the least that its tests need.

CONFIG_ARM_VIRT=y
