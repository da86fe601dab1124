# SPDX-License-Identifier: GPL-2.0-or-later
"""The launch digest of SNP and ID blocks: what sev-snp-measure says of a machine is what is launched."""

import base64
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1
from sevsnpmeasure.guest import snp_calc_launch_digest
from sevsnpmeasure.vcpu_types import CPU_SIGS

from cvmlab.attestation.id_blocks import IdBlock, SignedBlock, key_digest
from cvmlab.base.errors import VmExited
from cvmlab.machine.command_line import kernel_command_line
from cvmlab.machine.spec import BootSpec
from cvmlab.measurement.prediction import predict
from cvmlab.pki.derived import Seed
from cvmlab.qemu.build import rom_dirs
from tests.fakes.ovmf_images import SEV_SECTIONS, ovmf
from tests.fakes.snp_guest import report_request, sealed
from tests.qemu.conftest import Boot
from tests.qemu.snp import SNP, Ghcb, to_shared
from tests.qemu.test_snp_request import REQUEST, RESPONSE, request, responder


pytestmark = pytest.mark.qemu

SEED = Seed("id blocks")
KEY, AUTHOR = (SEED.ec_key(name, SECP384R1()) for name in ("id", "author"))
POLICY = 0x30000
TYPES = {"milan": "EPYC-Milan", "genoa": "EPYC-Genoa", "turin": "EPYC-Turin"}


def block_options(digest: bytes, policy: int = POLICY) -> tuple[str, ...]:
    return SignedBlock.made(IdBlock(digest=digest, policy=policy), KEY, AUTHOR).options


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    path = tmp_path / "OVMF.fd"
    path.write_bytes(ovmf())
    return path


def linux() -> bytes:
    """Return what QEMU takes for a Linux kernel: Documentation/arch/x86/boot.rst."""
    image = bytearray(16384)
    image[0x1F1] = 4  # sectors of the setup, less one
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = (0x20C).to_bytes(2, "little")
    image[0x211] = 1  # it is loaded high
    return bytes(image)


@pytest.mark.parametrize(
    ("cpu", "cpus", "hashes", "append"),
    [
        ("milan", 1, False, ""),
        ("genoa", 2, False, ""),
        ("genoa", 1, True, "quiet"),
        ("turin", 5, True, ""),
    ],
)
async def test_what_sev_snp_measure_says_is_launched(
    cpu: str, cpus: int, hashes: bool, append: str, firmware: Path, boot: Boot, tmp_path: Path
) -> None:
    """The block has their digest; a launch of another one is refused, as the next test shows."""
    kernel = tmp_path / "kernel"
    kernel.write_bytes(linux())
    options = {
        **SNP, "cpu": cpu, "cpus": cpus, "firmware": firmware, "kernel": kernel, "append": append,
    }  # fmt: skip
    theirs = snp_calc_launch_digest(
        cpus, CPU_SIGS[TYPES[cpu]], str(firmware), str(kernel) if hashes else "", "",
        kernel_command_line(BootSpec(**options)), 1, "",
    )  # fmt: skip
    given = (f"kernel-hashes={'on' if hashes else 'off'}", *block_options(theirs))
    async with boot(**options, cont=False, guest_options=given):
        pass


OTHERS = {
    "another digest": (block_options(bytes(48)), r"id-block: its launch digest is not that of this guest, [0-9a-f]{96}"),
    "another policy": (block_options(bytes(48), 0xB0000), "id-block: it is for policy 0xb0000, and this guest's is 0x30000"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
async def test_a_launch_that_is_not_of_its_block_is_refused(
    name: str, firmware: Path, boot: Boot, tmp_path: Path
) -> None:
    options, message = OTHERS[name]
    with pytest.raises(VmExited):
        async with boot(**SNP, firmware=firmware, cont=False, guest_options=options):
            pass
    assert re.search(message, (tmp_path / "qemu.log").read_text())


@pytest.mark.parametrize(
    ("at", "which", "message"),
    [
        (0x50, 0, "id-block: version 0, and firmware knows version 1"),
        (0, 1, "id-auth: its ID key is not a key for ECDSA with P-384 and SHA-384"),
        (4, 1, "id-auth: its author key is not a key for ECDSA with P-384 and SHA-384"),
        (0x240, 1, "id-auth: its ID key is not a key for ECDSA with P-384 and SHA-384"),
    ],
)
async def test_a_block_that_firmware_does_not_know_is_refused(
    at: int, which: int, message: str, boot: Boot, tmp_path: Path
) -> None:
    """So it is by QEMU alone: the controller, which verifies the signatures, is left out."""
    signed = SignedBlock.made(IdBlock(digest=bytes(48), policy=POLICY), KEY, AUTHOR)
    contents = [bytearray(signed.block), bytearray(signed.auth)]
    contents[which][at] = 0
    block, auth = (base64.b64encode(content).decode() for content in contents)
    options = (f"id-block={block}", f"id-auth={auth}", "author-key-enabled=on")
    with pytest.raises(VmExited):
        async with boot(**SNP, cont=False, guest_options=options):
            pass
    assert message in (tmp_path / "qemu.log").read_text()


async def test_half_a_block_is_refused(boot: Boot, tmp_path: Path) -> None:
    with pytest.raises(VmExited):
        async with boot(**SNP, cont=False, guest_options=("author-key-enabled=on",)):
            pass
    assert "id-block, id-auth: there must be both" in (tmp_path / "qemu.log").read_text()


@pytest.mark.parametrize("has_author", [True, False])
async def test_a_report_has_the_digests_of_the_keys(
    has_author: bool, boot: Boot, tmp_path: Path
) -> None:
    spec = BootSpec(coco="sev-snp", kernel=tmp_path, rom_dirs=tuple(rom_dirs()))
    (measured,) = predict(spec)
    assert measured.value is not None
    block = IdBlock(
        digest=measured.value, policy=POLICY, family_id=b"F" * 16, image_id=b"I" * 16, guest_svn=7
    )
    signed = SignedBlock.made(block, KEY, AUTHOR if has_author else None)
    socket = tmp_path / "r.sock"
    options = {"quote_socket": socket, "guest_options": signed.options}
    async with responder(socket) as told, boot(**SNP, **options) as vm:
        ghcb = Ghcb(vm.guest)
        for gpa in (REQUEST, RESPONSE):
            to_shared(vm.guest, gpa)
        await request(vm, ghcb, sealed(report_request(bytes(64))))
        (launch,) = told.launches
        assert launch.measurement == measured.value
        assert launch.id_key_digest == key_digest(KEY)
        assert launch.author_key_digest == (key_digest(AUTHOR) if has_author else bytes(48))
        assert launch.has_author_key is has_author
        assert (launch.family_id, launch.image_id) == (b"F" * 16, b"I" * 16)
        assert launch.guest_svn == 7


async def test_a_page_for_hashes_is_zero_without_them(
    firmware: Path, boot: Boot, tmp_path: Path
) -> None:
    """Their page is in the digest as one of zeros, which is not one that is measured as zeros."""
    options = {**SNP, "firmware": firmware, "cont": False, "cpu": "genoa"}
    measured = [
        snp_calc_launch_digest(1, CPU_SIGS["EPYC-Genoa"], str(path), "", "", "", 1, "")
        for path in (firmware, _without_the_table(tmp_path))
    ]
    async with boot(**options, guest_options=block_options(measured[0])):
        pass
    assert measured[0] != measured[1]
    with pytest.raises(VmExited):
        async with boot(**options, guest_options=block_options(measured[1])):
            pass


def _without_the_table(folder: Path) -> Path:
    path = folder / "other.fd"
    path.write_bytes(ovmf(sev=SEV_SECTIONS[:-1]))
    return path
