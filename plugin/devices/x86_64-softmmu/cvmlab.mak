# SPDX-License-Identifier: GPL-2.0-or-later
#
# The devices of cvmlab's QEMU, patched and stock alike: what guests boot from,
# what the tests aim at private memory, and what the plugin must refuse.  A
# short list because it halves the build.  Read by scripts/minikconf.py.

# Boards
CONFIG_Q35=y
CONFIG_I440FX=y
CONFIG_HPET=y

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
CONFIG_SERIAL_ISA=y
CONFIG_PCIE_PORT=y
CONFIG_USB_XHCI_PCI=y
CONFIG_VGA_PCI=y

# The one user of ISA DMA, which reaches memory by a path of its own
CONFIG_FDC_ISA=y

# Scriptable DMA, and exits a bare-metal guest can ask for
CONFIG_EDU=y
CONFIG_PCI_TESTDEV=y
CONFIG_ISA_DEBUG=y
CONFIG_ISA_TESTDEV=y
CONFIG_PVPANIC_ISA=y
CONFIG_PVPANIC_PCI=y

# Confidential guests, and the option ROM that patches itself (vapic)
CONFIG_SEV=y

# Refused next to a restricted backend; here so that the refusal can be tested
CONFIG_VIRTIO_BALLOON=y
CONFIG_VIRTIO_MEM=y
CONFIG_VIRTIO_PMEM=y
CONFIG_VIRTIO_IOMMU=y
CONFIG_VTD=y
CONFIG_AMD_IOMMU=y
CONFIG_NVDIMM=y
CONFIG_VHOST_USER_BLK=y
CONFIG_VHOST_USER_SCSI=y
CONFIG_VHOST_SCSI=y
CONFIG_VHOST_VSOCK=y
CONFIG_VFIO_PCI=y
CONFIG_IVSHMEM_DEVICE=y
