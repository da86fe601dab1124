# SPDX-License-Identifier: GPL-2.0-or-later
"""From the specification of a boot to what its guest will report of the launch."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cvmlab.base.errors import ConfigError
from cvmlab.machine.command_line import kernel_command_line
from cvmlab.machine.spec import BootSpec, Net
from cvmlab.measurement.event_log import LogEvent
from cvmlab.measurement.kernel_hashes import LoadedKernel
from cvmlab.measurement.mrtd import mrtd
from cvmlab.measurement.ovmf_tables import FirmwareImage
from cvmlab.measurement.rtmr0 import KnownEvent, known_events
from cvmlab.measurement.rtmrs import rtmr1, rtmr2
from cvmlab.measurement.snp_digest import ap_reset, is_measured, launch_digest
from cvmlab.measurement.vmsa import RESET_VECTOR, vmsa
from cvmlab.profiles.guest_object import given_properties, is_on
from cvmlab.profiles.profile import Profiles, either


# CPUID 1 EAX of QEMU's models: EPYC-Milan, EPYC-Genoa, EPYC-Turin (target/i386/cpu.c).
_SIGNATURES: Final = {"milan": 0x00A0_0F11, "genoa": 0x00A1_0F10, "turin": 0x00B0_0F00}


@dataclass(frozen=True, slots=True)
class Predicted:
    """A value, and what there is to know about it; without a value, ``note`` says why."""

    name: str
    value: bytes | None
    note: str


def predict(spec: BootSpec) -> list[Predicted]:
    """Return what a guest of *spec* will report; raise ConfigError if nothing attests it."""
    attestation = spec.profile.attestation
    if attestation is None:
        raise ConfigError(
            f"a guest of profile {spec.coco} reports no measurement", hint=_hint(spec.profiles)
        )
    if attestation.service not in _PREDICTIONS:
        raise ConfigError(
            f"what a guest of profile {spec.coco} will report is known after its launch only",
            hint=_hint(spec.profiles),
        )
    return list(_PREDICTIONS[attestation.service](spec, FirmwareImage.of(_firmware(spec))))


def _hint(profiles: Profiles) -> str:
    names = profiles.where(
        lambda row: row.attestation is not None and row.attestation.service in _PREDICTIONS
    )
    return f"--coco {either(names)}"


def differing_events(spec: BootSpec, found: Iterable[LogEvent]) -> list[str] | None:
    """Return which events of RTMR0 in a log are not those that *spec* leads to.

    None: the log has not the events of such a machine.  What is not known differs from nothing.
    """
    logged = [event.digest for event in found if event.rtmr == 0]
    events = _rtmr0_events(spec, FirmwareImage.of(_firmware(spec)))
    if len(logged) != len(events):
        return None
    return [
        event.name
        for event, digest in zip(events, logged, strict=True)
        if event.digest not in (None, digest)
    ]


def _rtmr0_events(spec: BootSpec, firmware: FirmwareImage) -> list[KnownEvent]:
    has_devices = spec.disks or spec.devices or spec.extra or spec.net is not Net.NONE
    return known_events(
        firmware, spec.memory_bytes,
        only_a_kernel=spec.kernel is not None and not has_devices,
    )  # fmt: skip


def _firmware(spec: BootSpec) -> bytes:
    path = spec.firmware
    if not isinstance(path, Path):
        architecture = spec.architecture
        own = Path(architecture.roms[0].file).name  # what QEMU loads by itself
        name = architecture.bios_of(path) or own
        found = (folder / name for folder in spec.rom_dirs if (folder / name).is_file())
        path = next(found, Path(name))
    return _content(path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def _of_a_td(spec: BootSpec, firmware: FirmwareImage) -> Iterator[Predicted]:
    value = mrtd(firmware)
    if not any(value):
        yield Predicted("MRTD", value, "zeros: this firmware is no TDVF, so no launch measures it")
        return
    yield Predicted("MRTD", value, "of the firmware alone; the same on hardware")
    events = _rtmr0_events(spec, firmware)
    unknown = ", ".join(dict.fromkeys(event.name for event in events if event.digest is None))
    known = sum(event.digest is not None for event in events)
    yield Predicted(
        "RTMR0", None,
        f"{known} of its events are known; not {unknown}, which depend on the machine's devices: "
        "give the --event-log",
    )  # fmt: skip
    if spec.kernel is None or spec.initrd is None:
        why = "known for a --kernel with an --initrd: give the --event-log"
        yield from (Predicted(name, None, why) for name in ("RTMR1", "RTMR2"))
    else:
        loaded = _loaded(spec)
        yield Predicted("RTMR1", rtmr1(loaded), "the kernel, as OVMF measures it")
        yield Predicted(
            "RTMR2", rtmr2(loaded), "command line and initrd, as Linux measures them from 6.9 on"
        )
    yield Predicted("RTMR3", bytes(len(value)), "zeros, until the guest extends it")


def _of_an_snp_guest(spec: BootSpec, firmware: FirmwareImage) -> Iterator[Predicted]:
    signature = _SIGNATURES.get(spec.cpu or spec.profile.cpu_model or "")
    if signature is None:
        yield Predicted(
            "measurement", None,
            f"the signature of this CPU is not known, and its save area has it: --cpu {either(_SIGNATURES)}",
        )  # fmt: skip
        return
    starts = [RESET_VECTOR] + [ap_reset(firmware) or RESET_VECTOR] * (spec.cpus - 1)
    value = launch_digest(
        firmware, _hashed_kernel(spec), [vmsa(start, signature) for start in starts]
    )
    what = f"firmware and {spec.cpus} CPU{'s' if spec.cpus > 1 else ''}"
    where = (
        "the same on hardware, with QEMU and KVM"
        if is_measured(firmware)
        else "only here: this firmware does not know SEV, and hardware cannot launch it"
    )
    yield Predicted("measurement", value, f"{what}; {where}")


def _hashed_kernel(spec: BootSpec) -> LoadedKernel | None:
    if spec.kernel is None or not is_on(given_properties(spec.guest_options).get("kernel-hashes")):
        return None
    return _loaded(spec)


def _loaded(spec: BootSpec) -> LoadedKernel:
    kernel, initrd = (
        b"" if path is None else _content(path) for path in (spec.kernel, spec.initrd)
    )
    return LoadedKernel(kernel, initrd, kernel_command_line(spec))


# By the word that a profile's row has for its attestation service.
_PREDICTIONS: Final[Mapping[str, Callable[[BootSpec, FirmwareImage], Iterator[Predicted]]]] = {
    "tdx-quotes": _of_a_td,
    "snp-requests": _of_an_snp_guest,
}
