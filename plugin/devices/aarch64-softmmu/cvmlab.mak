# SPDX-License-Identifier: GPL-2.0-or-later
#
# The devices of cvmlab's aarch64 QEMU: those of the x86 list that a virt
# machine can have.  The machine itself brings GICv3 with ITS, PL011, PL031,
# PL061, PCI Express, SMMUv3, flash, fw_cfg, virtio-mmio and ACPI.

# Board
CONFIG_ARM_VIRT=y

# Disks, network and consoles a stock guest kernel has drivers for
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_SCSI=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_RNG=y
CONFIG_VIRTIO_9P=y
CONFIG_NVME_PCI=y
CONFIG_AHCI_ICH9=y
CONFIG_E1000_PCI=y
CONFIG_E1000E_PCI_EXPRESS=y
CONFIG_PCIE_PORT=y
CONFIG_USB_XHCI_PCI=y
CONFIG_VGA_PCI=y

# Scriptable DMA, and exits a bare-metal guest can ask for
CONFIG_EDU=y
CONFIG_PCI_TESTDEV=y
CONFIG_PVPANIC_PCI=y

# Refused next to a restricted backend; here so that the refusal can be tested
CONFIG_VIRTIO_BALLOON=y
CONFIG_VIRTIO_MEM=y
CONFIG_VIRTIO_IOMMU=y
CONFIG_NVDIMM=y
CONFIG_VHOST_USER_BLK=y
CONFIG_VHOST_USER_SCSI=y
CONFIG_VHOST_SCSI=y
CONFIG_VHOST_VSOCK=y
CONFIG_VFIO_PCI=y
CONFIG_IVSHMEM_DEVICE=y
