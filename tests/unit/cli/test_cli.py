# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line without QEMU: what it says to mistakes, and what it promises besides."""

import json
import shlex
from pathlib import Path

import jsonschema
import pytest

from cvmlab.cli import main
from cvmlab.images import recipes
from cvmlab.results import result
from tests.fakes import kernel_files


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a kernel, a disk and a program that stands for QEMU."""
    (tmp_path / "kernel").write_bytes(
        kernel_files.elf({".note.pvh": kernel_files.pvh_note(0x1000)})
    )
    (tmp_path / "library").write_bytes(kernel_files.elf({}))
    (tmp_path / "arm").write_bytes(kernel_files.elf({}, kernel_files.EM_AARCH64))
    (tmp_path / "disk.qcow2").write_bytes(b"QFI\xfb" + bytes(508))
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    program = tmp_path / "qemu"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CVMLAB_QEMU", str(program))
    monkeypatch.setenv("CVMLAB_ROM_DIRS", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


_IMAGES = [*recipes.load().image, *recipes.load().disk]
PHASES = "phases are launch, firmware, efi-stub, kernel, user"
NUMBER = "write a limit such as 100, or a phase and its limit such as kernel=100"
BOOT_HELP = "see `cvmlab boot --help`"
RANGE = "write START+SIZE or START-END, such as 0x100000+2M"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("bot", "no such command 'bot'", "did you mean boot?"),
        ("frobnicate", "no such command 'frobnicate'", "see `cvmlab --help`"),
        ("--vresion", "no such option: --vresion", "did you mean --version?"),
        ("boot --memry 1G", "no such option: --memry", "did you mean --memory?"),
        ("boot --xyzzy", "no such option: --xyzzy", BOOT_HELP),
        ("boot a b", "got unexpected extra argument(s) (b)", BOOT_HELP),
        ("convert", "missing argument 'VM'", "see `cvmlab convert --help`"),
        (
            "convert vm 1M+4K",
            "missing option '--to'",
            "see `cvmlab convert --help`",
        ),
        (
            "convert vm 1M+4K --to sharde",
            "--to: there is no 'sharde'",
            "did you mean shared? known are shared, private",
        ),
        (
            "convert vm 1M --to shared",
            "'1M' is not a range of guest memory",
            RANGE,
        ),
        (
            "convert vm 1M+0 --to shared",
            "the range at 0x100000 is empty (rule: not-empty)",
            RANGE,
        ),
        (
            "convert vm 1M+4K --to shared",
            "no VM 'vm' is running",
            "`cvmlab ps` lists the VMs that run",
        ),
        ("query", "no VM is running", "`cvmlab boot` starts one"),
        ("stop nobody", "no VM 'nobody' is running", "`cvmlab ps` lists the VMs that run"),
        ("events nobody", "no VM 'nobody' is running", "`cvmlab ps` lists the VMs that run"),
        (
            "qmp vm query-status [1",
            "the arguments are not JSON: Expecting ',' delimiter: line 1 column 3 (char 2)",
            """write them like '{"id": "ram0"}'""",
        ),
        (
            "qmp vm query-status []",
            "the arguments are not a JSON object",
            """write them like '{"id": "ram0"}'""",
        ),
        (
            "boot -k kernel --coco genric",
            "--coco: there is no 'genric'",
            "did you mean generic? known are generic, sw-protected, tdx, sev, sev-es, sev-snp, cca, off",
        ),
        (
            "boot -k kernel --net usr",
            "--net: there is no 'usr'",
            "did you mean user? known are user, none",
        ),
        (
            "boot -k kernel --on-host-access sahre",
            "--on-host-access: there is no 'sahre'",
            "did you mean share? known are deny, share, zero, stop",
        ),
        (
            "boot -k kernel --on-pending wait",
            "--on-pending: there is no 'wait'",
            "known are accept, stop",
        ),
        (
            "boot -k kernel --disk-interface nvm",
            "--disk-interface: there is no 'nvm'",
            "did you mean nvme? known are virtio-blk, nvme, ahci",
        ),
        (
            "boot -k kernel --firmware ovfm",
            "--firmware: there is no 'ovfm'",
            "did you mean ovmf? known are seabios, ovmf, direct",
        ),
        (
            "boot -k kernel --progress fancy",
            "--progress: there is no 'fancy'",
            "known are auto, plain, rich, none",
        ),
        (
            "boot -k nowhere",
            "--kernel: cannot read nowhere: No such file or directory",
            "--kernel takes the path of a file",
        ),
        (
            "boot -k kernel --initrd .",
            "--initrd: cannot read .: Is a directory",
            "--initrd takes the path of a file",
        ),
        (
            "boot -k kernel --disk disk.raw --disk nowhere",
            "--disk: cannot read nowhere: No such file or directory",
            "--disk takes the path of a file",
        ),
        (
            "boot -k kernel --firmware ./nowhere",
            "--firmware: cannot read nowhere: No such file or directory",
            "--firmware takes the path of a file",
        ),
        (
            "boot -k library",
            "library is an ELF file without a PVH or Multiboot entry",
            "give the bzImage, or build the kernel with CONFIG_PVH=y",
        ),
        (
            "boot -k arm --coco sw-protected",
            "profile sw-protected is for guests of x86_64, and this one is of aarch64",
            "boot a guest of x86_64, or --coco off",
        ),
        (
            "boot -k arm --arch x86_64",
            "arm is a kernel for aarch64, but --arch is x86_64",
            "leave --arch out, or boot a guest for x86_64",
        ),
        (
            "boot -k disk.raw",
            "disk.raw is not a kernel in a known format",
            "give a bzImage, an ELF file with a PVH or Multiboot entry, an EFI application, or an arm64 Image",
        ),
        (
            "boot debain",
            "image: there is no 'debain'",
            f"did you mean debian? known are {', '.join(_IMAGES)}",
        ),
        (
            "boot --disk disk.raw --append quiet",
            "--append has no effect on a guest that boots from its own disk",
            "add --kernel, or boot an image that is not a disk",
        ),
        (
            "boot image -k kernel",
            "an image and --kernel cannot be combined",
            "leave one of them out",
        ),
        (
            "boot -k kernel --memory lots",
            "--memory: 'lots' is not a size",
            "write a number of bytes, or a number with K, M, G or T, such as 512M",
        ),
        (
            "boot -k kernel --memory 268435457",
            "guest memory must be a positive multiple of 4K (got 268435457 bytes)",
            "give a size such as 512M or 1G",
        ),
        (
            "boot -k kernel --coco sw-protected --on-host-access share",
            "--on-host-access share needs layout in-place, but sw-protected has layout split",
            "--on-host-access deny, zero or stop",
        ),
        (
            "boot -k kernel --coco-option gpaw=52",
            "profile generic has no guest object, so it takes no --coco-option",
            "--coco tdx, sev, sev-es, sev-snp or cca, or no --coco-option",
        ),
        (
            "boot -k kernel --coco tdx --coco-option gpaw",
            "--coco-option gpaw is not NAME=VALUE",
            "`qemu-system-x86_64 -object tdx-guest,help` lists the names",
        ),
        (
            "boot -k kernel --coco tdx --coco-option gpaw=52,id=other",
            "--coco-option gpaw=52,id=other is not NAME=VALUE",
            "`qemu-system-x86_64 -object tdx-guest,help` lists the names",
        ),
        (
            "boot -k kernel --coco tdx --coco-option id=other",
            "--coco-option id=other: cvmlab sets id itself",
            "leave it out",
        ),
        (
            "boot -k kernel --mapgpa refuse",
            "guests of profile generic do not call MapGPA",
            "--coco tdx, or no --mapgpa",
        ),
        (
            "boot -k kernel --quotes",
            "profile generic has no attestation",
            "--coco tdx, sev-snp or cca, or no --quotes",
        ),
        *(
            (
                f"boot -k kernel --coco tdx --mapgpa {policy}",
                f"--mapgpa {policy} is not a policy",
                "policies are all, max:SIZE (a multiple of 4K), retry:N, refuse",
            )
            for policy in ("some", "max", "max:1", "max:0", "retry", "retry:-1", "refuse:1")
        ),
        (
            "boot -k kernel --expect '('",
            "--expect '(' is not a regular expression: "
            "missing ), unterminated subpattern at position 0",
            "a backslash before ( [ { . * + ? ^ $ | takes it literally",
        ),
        (
            "boot -k kernel --expect ''",
            "--expect is empty",
            "give text that will appear on the console",
        ),
        (
            "boot -k kernel --timeout 0",
            "--timeout must be greater than 0 (got 0)",
            "give a number of seconds",
        ),
        (
            "boot -k kernel --timeout nan",
            "--timeout must be greater than 0 (got nan)",
            "give a number of seconds",
        ),
        ("boot -k kernel --max-faults some", "--max-faults: 'some' is not a number", NUMBER),
        ("boot -k kernel --max-accepts boot=1", "--max-accepts: there is no phase 'boot'", PHASES),
        (
            "boot -k kernel --timeout soon",
            "--timeout must be a number of seconds (got 'soon')",
            "give a number of seconds",
        ),
        (
            "boot -k kernel --cpus 300",
            "--cpus must be 1 to 255 (got 300)",
            "one or two are enough for most guests",
        ),
        (
            "boot -k kernel --cpus many",
            "--cpus must be a whole number (got 'many')",
            "give a number",
        ),
        (
            "boot -k kernel --memory 1M",
            "--memory must be at least 16M (got 1M)",
            "most Linux guests need 256M or more",
        ),
        (
            "boot -k kernel --tb-cache 4M",
            "--tb-cache must be 8M to 2047M (got 4M)",
            "64M to 256M is enough for one guest; with less, more guests fit",
        ),
        (
            "boot -k kernel --mqtt-ca ca.pem",
            "--mqtt-ca needs --mqtt",
            "add --mqtt HOST",
        ),
        (
            "boot -k kernel --name a/b",
            "'a/b' is not a name for a VM",
            "use letters, digits, - and _",
        ),
        (
            "boot -k kernel --qemu ./nowhere",
            "nowhere is not a program",
            "run `cvmlab build`",
        ),
        (
            "boot -k kernel --json gone/result.json",
            "gone/result.json cannot be written: there is no folder gone",
            "make the folder first",
        ),
        (
            "boot -k kernel --junit .",
            ". cannot be written: it is a folder",
            "give the path of a file",
        ),
    ],
)
def test_a_mistake_is_told_in_a_sentence_with_a_hint(
    files: Path, capsys: pytest.CaptureFixture[str], line: str, message: str, hint: str
) -> None:
    code = main(shlex.split(line))

    assert code == 85
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"cvmlab: {message}\nhint: {hint}\n")
    assert not list((files / "state").glob("**/vm.json"))


@pytest.mark.fault("V15")
def test_dry_run_prints_a_command_that_a_shell_takes_and_starts_nothing(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "boot -k kernel --append 'a b' --disk disk.qcow2 --disk disk.raw --memory 256M --dry-run"

    assert main(shlex.split(line)) == 0

    out, err = capsys.readouterr()
    argv = shlex.split(out.replace("\\\n", " "))
    assert argv[0] == str(files / "qemu")
    assert err == (
        "cvmlab: this command cannot be pasted into a shell: descriptors 3 to 10 are sockets and "
        "memory files that cvmlab opens before it starts QEMU\n"
    )
    assert argv[argv.index("-m") + 1] == "256M"
    assert argv[argv.index("-append") + 1].endswith(" a b")
    drives = [argv[at + 1] for at, word in enumerate(argv) if word == "-drive"]
    assert ["format=qcow2" in drives[0], "format=raw" in drives[1]] == [True, True]
    assert not (files / "state").exists()


@pytest.mark.parametrize(("budget", "loss"), [("9", "lossy"), ("kernel=9", "lossless")])
def test_a_budget_of_a_phase_asks_for_every_event(
    files: Path, capsys: pytest.CaptureFixture[str], budget: str, loss: str
) -> None:
    assert main(["boot", "-k", "kernel", "--max-accepts", budget, "--dry-run"]) == 0
    assert f"events={loss}," in capsys.readouterr().out


def test_dry_run_still_refuses_bad_input(files: Path) -> None:
    assert main(["boot", "-k", "nowhere", "--dry-run"]) == 85
    assert main(["boot", "-k", "kernel", "--junit", "gone/x.xml", "--dry-run"]) == 85


def test_a_boot_that_cannot_start_still_leaves_a_valid_result(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["boot", "-k", "kernel", "--memory", "lots", "--json", "-", "--junit", "j.xml"])

    out, err = capsys.readouterr()
    document = json.loads(out)
    jsonschema.validate(document, result.schema())
    assert (code, document["exit_code"], document["outcome"]) == (85, 85, "bad-input")
    assert document["message"] in err
    assert 'type="bad-input"' in (files / "j.xml").read_text()


def test_a_program_that_is_not_qemu_is_said_to_have_died(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["boot", "-k", "kernel", "--json", "r.json", "--progress", "none"])

    assert code == 84
    assert "QEMU did not start, it ended with status 3" in capsys.readouterr().err
    assert result.from_json((files / "r.json").read_bytes()).outcome == "qemu-died"


def test_ps_lists_nothing_when_nothing_runs(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ps"]) == 0
    assert main(["ps", "--json"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["[]"]


def test_debug_shows_where_a_mistake_was_found(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--debug", "query"]) == 85
    assert main(["boot", "-k", "nowhere", "--debug"]) == 85
    assert capsys.readouterr().err.count("Traceback (most recent call last)") >= 2
