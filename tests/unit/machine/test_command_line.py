# SPDX-License-Identifier: GPL-2.0-or-later
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.machine.command_line import (
    EXAMPLE_FDS,
    Channels,
    command_line,
    printable,
)
from cvmlab.machine.disk_format import DiskFormat, disk_format
from cvmlab.machine.options import boot_spec
from cvmlab.machine.spec import (
    BootSpec,
    Disk,
    DiskInterface,
    EventLoss,
    Firmware,
    Net,
    PendingPolicy,
)
from cvmlab.memory.states import Layout
from cvmlab.profiles.guest_object import policy_options
from cvmlab.profiles.profile_rows import PROFILES


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
        "private-fd=6,table-fd=8,ring-fd=9,stacks-fd=10"
    )
    assert value_of("-action", argv) == "shutdown=pause,reboot=shutdown"
    assert "-S" in argv
    assert "-kernel" not in argv
    assert "-gdb" not in argv


ARM = {"arch": "aarch64", "coco": "off", "kernel": "Image"}


def test_an_arm_machine_starts_a_kernel_without_firmware() -> None:
    argv = argv_of(**ARM, cpus=2)
    assert value_of("-machine", argv) == "virt,gic-version=3,its=on"
    assert value_of("-cpu", argv) == "max,pauth-impdef=on"
    assert value_of("-append", argv) == "console=ttyAMA0 panic=-1 loglevel=4"
    assert argv.count("-serial") == 2
    assert "-bios" not in argv


def test_an_arm_machine_has_the_firmware_of_its_architecture() -> None:
    assert value_of("-bios", argv_of(**ARM, firmware="ovmf")) == "QEMU_EFI.fd"


def test_a_machine_without_an_ahci_controller_gets_one_for_its_disk(tmp_path: Path) -> None:
    image = tmp_path / "disk.raw"
    image.write_bytes(bytes(512))
    disk = Disk(image, DiskInterface.AHCI)
    with_disk = argv_of(**ARM, disks=(disk,))
    assert with_disk.index("ich9-ahci,id=ide") < with_disk.index(
        "ide-hd,id=disk0-ide,drive=disk0,bus=ide.0"
    )
    assert "ich9-ahci,id=ide" not in argv_of(**ARM)
    assert "ich9-ahci,id=ide" not in argv_of(disks=(disk,))  # a PC has its own


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
    ours = "console=ttyS0,115200 panic=-1 loglevel=4 no_timer_check"
    assert value_of("-append", argv) == f"{ours} quiet x=1"
    assert value_of("-append", argv_of(kernel="k")) == ours


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


@pytest.mark.fault("U7")
def test_the_format_of_a_disk_is_that_of_its_content(tmp_path: Path) -> None:
    named_wrongly = {"a.img": b"QFI\xfb", "b.qcow2": b"\xeb\x63\x90", "c.raw": b""}
    for name, content in named_wrongly.items():
        (tmp_path / name).write_bytes(content)
    paths = [tmp_path / name for name in (*named_wrongly, "missing.qcow2")]
    qcow2, raw = DiskFormat.QCOW2, DiskFormat.RAW
    assert [disk_format(path) for path in paths] == [qcow2, raw, raw, raw]
    assert [disk.format for disk in boot_spec(disks=paths).disks] == [qcow2, raw, raw, raw]
    assert Disk(paths[0]).format is qcow2
    assert Disk(paths[0], format=raw).format is raw


def test_one_value_is_a_list_of_one() -> None:
    assert boot_spec(disks="x.img") == boot_spec(disks=[Path("x.img")])


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
    spec = boot_spec(memory="512M", disks=["x", "y"], net="none", pending="accept")
    assert spec == BootSpec(
        memory_bytes=512 << 20,
        disks=(Disk(Path("x")), Disk(Path("y"))),
        net=Net.NONE,
        pending=PendingPolicy.ACCEPT,
    )
    assert boot_spec(firmware=Firmware.OVMF, events=EventLoss.LOSSY).firmware is Firmware.OVMF
    assert boot_spec(memory=1 << 30) == boot_spec(memory_bytes="1G") == BootSpec()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cores": 1}, "a VM has no option 'cores'"),
        ({"cpus": "many"}, "cpus must be a whole number (got 'many')"),
        ({"on_host_access": "maybe"}, "on_host_access: there is no 'maybe'"),
        ({"disks": 5}, "disks must be a path (got 5)"),
        ({"memory": "1G", "memory_bytes": 5}, "memory and memory_bytes are the same option"),
        ({"tb_cache": "lots"}, "tb_cache: 'lots' is not a size"),
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
    assert policy_options(PROFILES["tdx"].host_policy, policy) == options


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        ("all", "rme-guest,id=cgs0"),
        ("max:8K", "rme-guest,id=cgs0,ripas-max=8192"),
        ("partial:8K", "rme-guest,id=cgs0,ripas-max=8192"),
        ("retry:3", "rme-guest,id=cgs0,ripas-retry=3"),
        ("refuse", "rme-guest,id=cgs0,ripas-refuse=on"),
    ],
)
def test_a_realm_is_an_arm_machine_and_its_host_answers_in_the_words_of_mapgpa(
    policy: str, word: str
) -> None:
    argv = argv_of(coco="cca", ripas=policy)
    assert word in argv
    assert value_of("-machine", argv) == (
        "virt,gic-version=3,its=on,memory-backend=ram0,confidential-guest-support=cgs0,aux-ram-share=on"
    )
    assert any("profile=cca,layout=split" in text for text in argv)
    assert "-bios" not in argv


@pytest.mark.parametrize(
    ("options", "told", "hint"),
    [
        ({"coco": "tdx", "ripas": "refuse"}, "do not call RSI_IPA_STATE_SET", "--coco cca"),
        ({"coco": "cca", "mapgpa": "refuse"}, "do not call MapGPA", "--coco tdx"),
        (
            {"coco": "cca", "ripas": "partial:1"},
            "--ripas max:1 is not a policy",
            "max:SIZE or partial:SIZE (a",
        ),
        ({"coco": "tdx", "mapgpa": "partial:8K"}, "--mapgpa partial:8K is not", "max:SIZE (a"),
        ({"coco": "cca", "arch": "x86_64"}, "is for guests of aarch64", "boot a guest of aarch64"),
        ({"coco": "tdx", "arch": "aarch64"}, "is for guests of x86_64", "boot a guest of x86_64"),
        ({"coco": "cca", "cpus": 513}, "--cpus must be 1 to 512", "one or two"),
    ],
)
def test_what_no_realm_can_be_is_refused_with_a_hint(
    options: dict[str, object], told: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(told)) as refused:
        boot_spec(**options).validate()
    assert hint in str(refused.value.hint)


def test_options_for_a_guest_object_that_is_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="no guest object"):
        boot_spec(coco="generic", guest_options=("gpaw=52",)).validate()


@pytest.mark.fault("V14")
@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/run/vm", "unix:/run/vm/qmp.sock,server=on,wait=off"),
        ("/run/a=b", "unix:path=/run/a=b/qmp.sock,server=on,wait=off"),
        ("/run/a,b", "unix:/run/a,,b/qmp.sock,server=on,wait=off"),
    ],
)
def test_the_path_of_a_run_folder_may_have_any_character(folder: str, expected: str) -> None:
    argv = command_line(Path("qemu"), boot_spec(), Channels.example(Path(folder)), EXAMPLE_FDS)
    assert value_of("-qmp", argv) == expected


@pytest.mark.fault("V14")
def test_a_colon_in_the_name_of_a_disk_is_no_protocol() -> None:
    argv = argv_of(disks=["a:b.img"], coco="off")
    assert value_of("-drive", argv).endswith(f",file={Path('a:b.img').absolute()}")


@pytest.mark.fault("V14")
@pytest.mark.parametrize("size", [(512 << 20) + 4096, (1 << 30) - 4096])
def test_a_size_that_qemu_would_round_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="--memory must be a multiple of 8K"):
        boot_spec(memory=size).validate()


@pytest.mark.parametrize(("replays", "word"), [(False, "record"), (True, "replay")])
def test_a_recorded_machine_counts_instructions_in_one_thread(
    tmp_path: Path, *, replays: bool, word: str
) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    channels = replace(
        CHANNELS,
        execution_log=Path("/logs/a,b"),
        replays=replays,
        overlays=(Path("/run/vm/disk0.qcow2"),),
    )
    spec = boot_spec(disks=[disk], net="user")
    argv = command_line(QEMU, spec, channels, EXAMPLE_FDS)
    assert value_of("-accel", argv).startswith("tcg,thread=single,")
    assert value_of("-icount", argv) == f"shift=3,rr={word},rrfile=/logs/a,,b"
    assert json.loads(value_of("-blockdev", argv))["node-name"] == "disk0-file"
    assert value_of("-drive", argv) == "if=none,id=disk0,driver=blkreplay,image=disk0-file"
    assert "filter-replay,id=net0-log,netdev=net0" in argv


@pytest.mark.parametrize(
    ("asked", "stored"),
    [("partial:4M", "max:4M"), ("max:4M", "max:4M"), ("retry:3", "retry:3"), (None, None)],
)
def test_a_policy_is_stored_by_its_usual_word(asked: str | None, stored: str | None) -> None:
    assert boot_spec(coco="cca", ripas=asked).ripas == stored
