# SPDX-License-Identifier: GPL-2.0-or-later
"""Command lines that cannot work: QEMU says why in one sentence, and does not start."""

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from cvmlab.qemu.build import rom_dirs, stock_qemu_binary
from cvmlab.qemu.versions import VERSIONS
from tests.qemu.plain import PlainQmp, QmpRefusedError, machine, plain_qemu


pytestmark = pytest.mark.qemu

TYPE = "memory-backend-restricted"
RAM = f"{TYPE},id=ram0,size=64M"
PAGE_SIZE = 4096
PAGES = (64 << 20) // PAGE_SIZE
UNGUARDED = f"cannot be used with {TYPE}: a vhost process would map guest memory unguarded"
NO_IOMMU = f"cannot be used with {TYPE}: the guard takes the place of the IOMMU"
NEEDS_IN_PLACE = (
    "access-policy=share needs layout=in-place: content cannot move between files while a device "
    "waits"
)
SMM = f"{TYPE}: system management mode would see private memory; say -machine smm=off"

BACKENDS = [
    (f"{TYPE},id=ram0,size=67108865", "size 67108865 is not a multiple of 4 KiB"),
    (f"{TYPE},id=ram0,size=0", f"property 'size' of {TYPE} doesn't take value '0'"),
    (f"{TYPE},id=ram0", "Parameter 'size' is missing"),
    (f"{RAM},profile=nope", "profile 'nope' is unknown"),
    (f"{RAM},profile=sw-protected,access-policy=share", NEEDS_IN_PLACE),
    (f"{RAM},layout=split,access-policy=share", NEEDS_IN_PLACE),
    (f"{RAM},layout=both", "Parameter 'layout' does not accept value 'both'"),
    (f"{RAM},access-policy=maybe", "Parameter 'access-policy' does not accept value 'maybe'"),
    (f"{RAM},pending=maybe", "Parameter 'pending' does not accept value 'maybe'"),
    (f"{RAM},nope=1", "Invalid parameter 'nope'"),
    (f"{RAM},private-fd=99", "private-fd=99 is not an open file: Bad file descriptor"),
    (f"{RAM},table-fd=99", "table-fd=99 is not an open file: Bad file descriptor"),
    (f"{RAM},ring-fd=99", "ring-fd=99 is not an open file: Bad file descriptor"),
    (f"{RAM},private-fd=x", "Parameter 'private-fd' expects an int64 value"),
    (f"{RAM},private-fd=-5", "private-fd=-5 is not a file descriptor"),
    (f"{RAM},private-fd=4294967296", "private-fd=4294967296 is not a file descriptor"),
    (f"{RAM},shared-fd=0", "shared-fd has no use with layout=in-place"),
    (f"{RAM},layout=split,shared-fd=99", "shared-fd=99 is not an open file: Bad file descriptor"),
]
MACHINES = [
    (["-machine", "smm=on"], SMM),
    (["-machine", "smm=auto"], SMM),
    (["-m", "64M,slots=1,maxmem=128M"], f"{TYPE}: memory cannot be hotplugged; drop maxmem"),
    (
        ["-incoming", "defer"],
        f"{TYPE} cannot take an incoming migration: a stream would overwrite private memory; "
        "drop -incoming, use mode cpr-transfer, or give the files of a saved guest",
    ),
    (["-m", "128M"], "Machine memory size does not match the size of the memory backend"),
    (["-object", f"{TYPE},id=ram1,size=64M"], f"only one {TYPE} can be used"),
]
DEVICES = [
    (
        "virtio-balloon-pci",
        f"virtio-balloon-pci cannot be used with {TYPE}: a balloon would discard memory that is "
        "the guest's; use restricted-memory-discard",
    ),
    (
        "virtio-mem-pci,memdev=ram0",
        f"virtio-mem-pci cannot be used with {TYPE}: memory cannot be plugged or unplugged",
    ),
    (
        "virtio-pmem-pci,memdev=other",
        f"virtio-pmem-pci cannot be used with {TYPE}: its memory would be outside the backend",
    ),
    ("pc-dimm,memdev=other", f"pc-dimm cannot be used with {TYPE}: memory cannot be hotplugged"),
    ("nvdimm,memdev=other", f"nvdimm cannot be used with {TYPE}: memory cannot be hotplugged"),
    ("vhost-vsock-pci,guest-cid=3", f"vhost-vsock-pci {UNGUARDED}"),
    ("vhost-user-blk-pci", f"vhost-user-blk-pci {UNGUARDED.replace('vhost', 'vhost-user')}"),
    ("intel-iommu", f"intel-iommu {NO_IOMMU}"),
    ("amd-iommu", f"amd-iommu {NO_IOMMU}"),
    ("virtio-iommu-pci", f"virtio-iommu-pci {NO_IOMMU}"),
    (
        "vfio-pci,host=0000:00:00.0",
        f"vfio-pci cannot be used with {TYPE}: a host device would reach guest memory unguarded",
    ),
]


def refusal(command: Sequence[str], *, keep_fds: Sequence[int] = ()) -> str:
    """Run a QEMU that must not start; return its last sentence, without what was asked."""
    done = subprocess.run(
        [*command, "-S"], capture_output=True, text=True, timeout=30, check=False,
        stdin=subprocess.DEVNULL, pass_fds=keep_fds,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(("backend", "sentence"), BACKENDS, ids=lambda value: value[:60])
def test_backend(patched_qemu: Path, backend: str, sentence: str) -> None:
    line = refusal(machine(patched_qemu, rom_dirs(), backend=backend))
    assert line.endswith(f": {sentence}")


@pytest.mark.parametrize(("words", "sentence"), MACHINES, ids=lambda value: str(value)[:60])
def test_machine(patched_qemu: Path, words: list[str], sentence: str) -> None:
    line = refusal([*machine(patched_qemu, rom_dirs()), *words])
    assert line.endswith(f": {sentence}")


@pytest.mark.parametrize(
    ("device", "sentence"), DEVICES, ids=lambda value: value.split(",")[0][:60]
)
def test_device(patched_qemu: Path, device: str, sentence: str) -> None:
    other = ["-object", "memory-backend-ram,id=other,size=64M"]
    line = refusal([*machine(patched_qemu, rom_dirs()), *other, "-device", device])
    assert line.endswith(f": {sentence}")


def test_control_the_machine_starts_without_any_of_it(patched_qemu: Path, tmp_path: Path) -> None:
    with plain_qemu(machine(patched_qemu, rom_dirs()), tmp_path) as qemu, qemu.qmp() as qmp:
        assert [info["id"] for info in qmp.command("query-restricted-memory")] == ["ram0"]


def test_a_backend_that_is_not_the_machines_memory(patched_qemu: Path) -> None:
    command = [*machine(patched_qemu, rom_dirs(), backend=None), "-object", RAM]
    sentence = f"{TYPE} 'ram0' is not the machine's memory; say -machine memory-backend=ram0"
    assert refusal(command).endswith(f": {sentence}")


def test_a_device_that_is_plugged_later(patched_qemu: Path, tmp_path: Path) -> None:
    with plain_qemu(machine(patched_qemu, rom_dirs()), tmp_path) as qemu, qemu.qmp() as qmp:
        with pytest.raises(QmpRefusedError, match="a balloon would discard memory"):
            qmp.command("device_add", driver="virtio-balloon-pci")
        with pytest.raises(QmpRefusedError, match="must be on the command line"):
            qmp.command("object-add", **{"qom-type": TYPE, "id": "ram1", "size": 1 << 20})
        with pytest.raises(QmpRefusedError, match="object 'ram0' is in use"):
            qmp.command("object-del", id="ram0")
        assert len(qmp.command("query-restricted-memory")) == 1


def test_properties_are_fixed_once_the_backend_is_in_use(
    patched_qemu: Path, tmp_path: Path
) -> None:
    changes = {
        "profile": "sw-protected",
        "layout": "split",
        "access-policy": "share",
        "pending": "stop",
        "events": "lossless",
        "debuggable": True,
        "private-fd": 0,
        "ring-fd": 0,
    }
    with plain_qemu(machine(patched_qemu, rom_dirs()), tmp_path) as qemu, qemu.qmp() as qmp:
        before = properties(qmp, changes)
        for name, value in changes.items():
            with pytest.raises(QmpRefusedError, match="is in use by the guest"):
                qmp.command("qom-set", path="/objects/ram0", property=name, value=value)
        assert properties(qmp, changes) == before


def properties(qmp: PlainQmp, names: dict[str, object]) -> list[object]:
    return [qmp.command("qom-get", path="/objects/ram0", property=name) for name in names]


class TestFiles:
    """Files that the controller made wrong."""

    @pytest.mark.parametrize("name", ["private", "table"])
    def test_too_small(self, patched_qemu: Path, name: str) -> None:
        needed = {"private": 64 << 20, "table": PAGES}[name]
        with memfd(needed - 1) as fd:
            line = self._line(patched_qemu, f"{name}-fd={fd}", fd)
        assert line.endswith(f": {name}-fd={fd} has {needed - 1} bytes, {needed} needed")

    @pytest.mark.parametrize(
        ("size", "content"),
        [
            (PAGE_SIZE, b""),
            (PAGE_SIZE + 3 * 64, b""),
            (PAGE_SIZE + 64, b""),
            (PAGE_SIZE + 64 * 64, b"REMGNIR1" + struct.pack("<I", 99)),
        ],
        ids=["no records", "3 records", "1 record", "of another version"],
    )
    def test_bad_ring(self, patched_qemu: Path, size: int, content: bytes) -> None:
        with memfd(size) as fd:
            os.pwrite(fd, content, 0)
            line = self._line(patched_qemu, f"ring-fd={fd}", fd)
        assert ": ring-fd" in line

    def test_a_ring_without_a_header_page(self, patched_qemu: Path) -> None:
        with memfd(100) as fd:
            line = self._line(patched_qemu, f"ring-fd={fd}", fd)
        assert ": ring-fd" in line

    def _line(self, qemu: Path, option: str, fd: int) -> str:
        return refusal(machine(qemu, rom_dirs(), backend=f"{RAM},{option}"), keep_fds=[fd])


@contextmanager
def memfd(size: int) -> Iterator[int]:
    fd = os.memfd_create("test")
    try:
        os.ftruncate(fd, size)
        yield fd
    finally:
        os.close(fd)


VHOST_USER = "vhost-user,id=net0,chardev=process"
CARDS = {
    "by -device": ["-netdev", VHOST_USER, "-device", "virtio-net-pci,netdev=net0"],
    "by -net nic": ["-netdev", VHOST_USER, "-net", "nic,netdev=net0,model=virtio-net-pci"],
    "by -global": [
        "-netdev", VHOST_USER, "-global", "virtio-net-pci.netdev=net0", "-device", "virtio-net-pci",
    ],
    "by -nic": ["-nic", f"{VHOST_USER},model=virtio-net-pci"],
}  # fmt: skip
VHOST_REFUSED = f"netdev 'net0' cannot be used with {TYPE}: vhost would map guest memory unguarded"


@pytest.mark.fault("L6")
@pytest.mark.parametrize("words", CARDS.values(), ids=CARDS)
def test_a_network_card_with_a_vhost_user_process(
    patched_qemu: Path, tmp_path: Path, words: list[str]
) -> None:
    path = tmp_path / "vhost.sock"
    with vhost_user_process(path):
        chardev = ["-chardev", f"socket,id=process,path={path}"]
        line = refusal([*machine(patched_qemu, rom_dirs()), *chardev, *words])
    assert line.endswith(f": {VHOST_REFUSED}")


@pytest.mark.fault("L6")
@pytest.mark.parametrize("command", ["netdev_add", "human-monitor-command"])
def test_a_vhost_user_process_that_is_plugged_later(
    patched_qemu: Path, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "vhost.sock"
    chardev = ["-chardev", f"socket,id=process,path={path}"]
    arguments = {
        "netdev_add": {"type": "vhost-user", "id": "net0", "chardev": "process"},
        "human-monitor-command": {"command-line": f"netdev_add {VHOST_USER}"},
    }[command]
    with (
        vhost_user_process(path),
        plain_qemu([*machine(patched_qemu, rom_dirs()), *chardev], tmp_path) as qemu,
        qemu.qmp() as qmp,
    ):
        try:
            said = qmp.command(command, **arguments)
        except QmpRefusedError as error:
            said = str(error)
        assert VHOST_REFUSED in said
        with pytest.raises(QmpRefusedError, match="Device 'net0' not found"):
            qmp.command("netdev_del", id="net0")
        qmp.command("quit")
        assert qemu.wait() == 0


@contextmanager
def vhost_user_process(path: Path) -> Iterator[None]:
    """Answer as a vhost-user back end without any feature would, until QEMU hangs up."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            while header := connection.recv(12):
                request, _, size = struct.unpack("<III", header)
                connection.recv(size) if size else b""
                if request == 1:  # VHOST_USER_GET_FEATURES
                    connection.sendall(struct.pack("<IIIQ", request, 5, 8, 0))

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(path))
        server.listen(1)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            thread.join(10)


def test_a_qemu_without_the_plugin(tmp_path: Path) -> None:
    sentence = f"Parameter 'qom-type' does not accept value '{TYPE}'"
    line = refusal(machine(stock_qemu_binary(VERSIONS[0].name), rom_dirs()))
    assert line.endswith(f": {sentence}")
