# SPDX-License-Identifier: GPL-2.0-or-later
import json
from pathlib import Path

import pytest

from cvmlab.bootspec import (
    BootSpec,
    Disk,
    DiskFormat,
    DiskInterface,
    EventLoss,
    Firmware,
    Net,
    PendingPolicy,
)
from cvmlab.errors import ConfigError
from cvmlab.guestobject import mapgpa_options
from cvmlab.machine import (
    EXAMPLE_FDS,
    Channels,
    command_line,
    printable,
)
from cvmlab.options import boot_spec
from cvmlab.states import Layout


QEMU = Path("/opt/qemu-system-x86_64")
CHANNELS = Channels.example(Path("/run/vm"))


def argv_of(**options: object) -> list[str]:
    spec = boot_spec(**options)
    return command_line(QEMU, spec, CHANNELS, EXAMPLE_FDS if spec.restricted else None)


def value_of(option: str, argv: list[str]) -> str:
    return argv[argv.index(option) + 1]


def test_the_default_machine() -> None:
    argv = argv_of()
    assert argv[0] == str(QEMU)
    assert value_of("-machine", argv) == "q35,smm=off,sata=off,memory-backend=ram0,aux-ram-share=on"
    assert value_of("-m", argv) == "1G"
    assert value_of("-object", argv) == (
        "memory-backend-restricted,id=ram0,size=1G,profile=generic,layout=in-place,"
        "access-policy=deny,pending=accept,events=lossy,debuggable=off,"
        "private-fd=6,table-fd=8,ring-fd=9"
    )
    assert value_of("-action", argv) == "shutdown=pause,reboot=shutdown"
    assert "-S" in argv
    assert "-kernel" not in argv
    assert "-gdb" not in argv


def test_split_profiles_get_a_shared_file() -> None:
    backend = value_of("-object", argv_of(coco="sw-protected"))
    assert "layout=split" in backend
    assert "shared-fd=7" in backend
    assert boot_spec(layout="split").memory_layout is Layout.SPLIT


def test_off_is_a_machine_without_a_backend() -> None:
    argv = argv_of(coco="off")
    assert "-object" not in argv
    assert value_of("-machine", argv) == "q35,smm=off,sata=off"


def test_kernel_initrd_and_command_line() -> None:
    argv = argv_of(kernel="vmlinuz", initrd="initrd", append="quiet x=1")
    assert value_of("-kernel", argv) == "vmlinuz"
    assert value_of("-initrd", argv) == "initrd"
    assert value_of("-append", argv) == "console=ttyS0,115200 panic=-1 loglevel=4 quiet x=1"
    assert value_of("-append", argv_of(kernel="k")) == "console=ttyS0,115200 panic=-1 loglevel=4"


def test_disks_are_snapshots_on_the_device_asked_for() -> None:
    disks = [
        Disk(Path("a,b.img")),
        Disk(Path("c.qcow2"), DiskInterface.NVME, DiskFormat.QCOW2),
        Disk(Path("d.img"), DiskInterface.AHCI),
    ]
    argv = argv_of(disks=disks, on_host_access="share")
    drives = [argv[i + 1] for i, word in enumerate(argv) if word == "-drive"]
    devices = [argv[i + 1] for i, word in enumerate(argv) if word == "-device"]
    assert drives == [
        "if=none,id=disk0,format=raw,snapshot=on,file=a,,b.img",
        "if=none,id=disk1,format=qcow2,snapshot=on,file=c.qcow2",
        "if=none,id=disk2,format=raw,snapshot=on,file=d.img",
    ]
    assert "sata=off" not in value_of("-machine", argv)
    assert devices == [
        "virtio-blk-pci,id=disk0-pci,drive=disk0",
        "nvme,id=disk1-nvme,drive=disk1,serial=disk1",
        "ide-hd,id=disk2-ide,drive=disk2,bus=ide.2",
    ]


def test_iommu_platform_reaches_every_virtio_device() -> None:
    argv = argv_of(disks=["a.img"], net="user", iommu_platform=True)
    assert sum(",iommu_platform=on,disable-legacy=on" in word for word in argv) == 2


def test_where_a_kick_may_fault_the_vcpu_handles_it() -> None:
    for policy, expected in (("deny", 2), ("share", 0)):
        argv = argv_of(disks=["a.img"], net="user", on_host_access=policy)
        assert sum(word.endswith(",ioeventfd=off") for word in argv) == expected


def test_everything_else_finds_its_place() -> None:
    argv = argv_of(
        memory="2G", cpus=4, net="user", firmware="ovmf", devices=["edu"], gdb="tcp::1234",
        debuggable=True, allow_reboot=True, rng_seed=7, rom_dirs=["/roms"], extra=["-trace", "x"],
        on_host_access="stop", pending="stop", events="lossless",
    )  # fmt: skip
    assert (value_of("-m", argv), value_of("-smp", argv)) == ("2G", "4")
    assert (value_of("-L", argv), value_of("-bios", argv)) == ("/roms", "OVMF.fd")
    assert value_of("-netdev", argv) == "user,id=net0"
    assert value_of("-gdb", argv) == "tcp::1234"
    assert value_of("-seed", argv) == "7"
    assert value_of("-action", argv) == "shutdown=pause,reboot=reset"
    assert argv[-2:] == ["-trace", "x"]
    assert "access-policy=stop,pending=stop,events=lossless,debuggable=on" in value_of(
        "-object", argv
    )
    assert value_of("-bios", argv_of(firmware="/my/fw.bin")) == "/my/fw.bin"


def test_options_are_read_as_people_write_them() -> None:
    spec = boot_spec(memory="512M", disks=["x.qcow2", "y"], net="none", pending="accept")
    assert spec == BootSpec(
        memory_bytes=512 << 20,
        disks=(Disk(Path("x.qcow2"), format=DiskFormat.QCOW2), Disk(Path("y"))),
        net=Net.NONE,
        pending=PendingPolicy.ACCEPT,
    )
    assert boot_spec(firmware=Firmware.OVMF, events=EventLoss.LOSSY).firmware is Firmware.OVMF
    assert boot_spec(memory=1 << 30) == boot_spec(memory_bytes="1G") == BootSpec()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu": 1}, "a VM has no option 'cpu'"),
        ({"cpus": "many"}, "bad option of a VM: invalid literal for int() with base 10: 'many'"),
        ({"on_host_access": "maybe"}, "bad option of a VM: 'maybe' is not a valid AccessPolicy"),
        ({"disks": 5}, "bad option of a VM: 'int' object is not iterable"),
    ],
)
def test_what_is_no_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        boot_spec(**options)
    assert caught.value.message == message


def test_a_spec_with_all_its_files_is_valid(tmp_path: Path) -> None:
    names = ("kernel", "initrd", "disk", "firmware")
    files = {name: tmp_path / name for name in names}
    for file in files.values():
        file.touch()
    spec = boot_spec(
        kernel=files["kernel"], initrd=files["initrd"], disks=[files["disk"]],
        firmware=files["firmware"],
    )  # fmt: skip
    spec.validate()
    for file in files.values():
        file.unlink()
        with pytest.raises(ConfigError, match=f"there is no file {file}"):
            spec.validate()
        file.touch()


@pytest.mark.parametrize(
    ("options", "valid"),
    [
        ({"memory": "16M"}, True),
        ({"memory": (16 << 20) - 4096}, False),
        ({"memory": 1 << 46}, True),
        ({"memory": (1 << 46) + 4096}, False),
        ({"cpus": 255}, True),
        ({"cpus": 256}, False),
        ({"coco": "off", "on_host_access": "share"}, True),
        ({"on_host_access": "share", "layout": "split"}, False),
    ],
)
def test_bounds(options: dict[str, object], *, valid: bool) -> None:
    spec = boot_spec(**options)
    if valid:
        spec.validate()
    else:
        with pytest.raises(ConfigError):
            spec.validate()


def test_the_printed_command_keeps_option_and_value_together() -> None:
    lines = printable(["qemu", "-S", "-m", "1G", "-append", "a b", "-serial", "x"]).split(" \\\n  ")
    assert lines == ["qemu", "-S", "-m 1G", "-append 'a b'", "-serial x"]


def test_a_td_has_a_guest_object_with_its_options() -> None:
    argv = argv_of(coco="tdx", guest_options=("gpaw=52", "ve=strict"))
    assert "tdx-guest,id=cgs0,gpaw=52,ve=strict" in argv
    machine = value_of("-machine", argv)
    assert "memory-backend=ram0,confidential-guest-support=cgs0" in machine
    assert "profile=tdx,layout=split" in " ".join(argv)


def test_a_quote_socket_is_said_in_json() -> None:
    options = ("gpaw=52", "accept-1g=on", "ve=strict")
    argv = argv_of(coco="tdx", guest_options=options, quote_socket=Path("/run/q,1"))
    (text,) = (word for word in argv if word.startswith("{"))
    assert json.loads(text) == {
        "qom-type": "tdx-guest",
        "id": "cgs0",
        "gpaw": 52,
        "accept-1g": True,
        "ve": "strict",
        "quote-generation-socket": {"type": "unix", "path": "/run/q,1"},
    }


def test_a_vm_can_bring_its_own_quote_service() -> None:
    argv = argv_of(coco="tdx", quotes=True)
    assert '"path": "/run/vm/quotes.sock"' in " ".join(argv)
    assert "quotes.sock" not in " ".join(argv_of(coco="tdx"))


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        (None, ()),
        ("all", ()),
        ("max:2M", ("map-gpa-max=2097152",)),
        ("retry:2", ("map-gpa-retry=2",)),
        ("retry:0", ("map-gpa-retry=0",)),
        ("refuse", ("map-gpa-refuse=on",)),
    ],
)
def test_a_policy_on_mapgpa_is_a_property(policy: str | None, options: tuple[str, ...]) -> None:
    assert mapgpa_options("tdx", policy) == options


def test_options_for_a_guest_object_that_is_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="no guest object"):
        boot_spec(coco="generic", guest_options=("gpaw=52",)).validate()
