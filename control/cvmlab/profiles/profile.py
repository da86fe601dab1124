# SPDX-License-Identifier: GPL-2.0-or-later
"""What a row of facts about a profile is, and the collection of all rows.  Pure.

A row holds data and words only.  Page-state rules and the layout come from the plugin's rules file,
plugin/core/transitions.toml, which has a table for each profile with restricted memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from cvmlab.base.errors import ConfigError
from cvmlab.profiles.architecture import ARCHITECTURES, DEFAULT_ARCHITECTURE, Architecture


if TYPE_CHECKING:
    from cvmlab.memory.states import Layout, Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionCheck:
    """A check before QEMU starts: a word of attestation/option_checks.py, and the options it is of."""

    name: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestObject:
    """QEMU's confidential-guest object: its type, and properties that it needs to start.

    ``check`` is what some of its options need; None: only QEMU checks them.
    """

    type: str
    defaults: tuple[str, ...]
    check: OptionCheck | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """How a guest is attested.

    ``service`` is a word of attestation/services.py.  ``socket_property`` is the property of the
    guest object that takes the service's socket, ``certificates_property`` that which takes a file
    of certificates, None: there are none.  ``driver`` is the guest's configfs-tsm module;
    ``driver_helpers`` are modules that some kernels' driver needs without naming them as
    dependencies: those that the kernel has are loaded first.
    """

    service: str
    socket_property: str
    driver: str
    driver_helpers: tuple[str, ...]
    certificates_property: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPolicy:
    """How a host answers a guest that asks for a conversion, where an option can say it.

    ``option`` is that option's name, ``call`` what the guest calls, ``subject`` what reports call the
    answer; ``properties`` is how names of the guest object's properties for it begin.  ``synonyms``
    are other words for words of an answer.  ``effect`` says what Linux does about a refusal, a part or
    a retry.
    """

    option: str
    call: str
    subject: str
    properties: str
    synonyms: tuple[tuple[str, str], ...]
    effect: str

    def usual(self, answer: str) -> str:
        """Return *answer* with the word that results and reports have for it."""
        word, colon, value = answer.partition(":")
        return f"{dict(self.synonyms).get(word, word)}{colon}{value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskRefusal:
    """Firmware that cannot boot from a disk under the profile; ``reason`` begins the error."""

    firmware: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a guest's kernel speaks under the profile, and what shows that it does.

    The plugin counts uses of ``proof`` as kernel_calls.  Where it is not ``required``, a guest may
    be silent, as ``silence`` says.  ``config`` and ``since`` are the option and the version of Linux
    that speak it; ``fate`` says what becomes of another kernel on hardware, and, if it ``dies_here``,
    in the emulator, too: then all else that is wrong with it follows from that.  ``late`` is what
    a report says where firmware runs before the guest is launched; it is empty where none does.
    """

    name: str
    proof: str
    silence: str
    required: bool
    config: str
    since: tuple[int, int]
    fate: str
    dies_here: bool
    late: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One row: all that tells a profile from the others.  No fact has a default.

    ``restricted``          the guest has restricted memory, and a table in the rules file
    ``architectures``       those whose QEMU has it, by name
    ``guest_object``        None: QEMU needs no such object
    ``cpu_model``           its guests' processor, a name of cpu_models.py; None: the machine's own
    ``interface``           None: the guest knows nothing of the profile, and speaks to nobody
    ``attestation``         None: nothing attests these guests
    ``host_policy``         None: no option says how the host answers the guest's requests
    ``image``               what is booted where nothing is named, because kernels of other images know
                            nothing of the profile; None: the default of the architecture
    ``sharing_firmware``    firmware that shares its disk buffers by itself; None: no firmware does,
                            and a disk needs an ``--on-host-access`` that lets the host in
    ``disk_refusals``       firmware that cannot boot from a disk, and why
    ``upgrade_refusal``     why QEMU cannot be replaced under the guest; None: it can be
    ``thin_functions``      functions of Linux that only carry out a request: their callers are blamed;
                            a ``*`` stands for anything
    ``fault_words``         what the specification calls each case of results/guest_faults.py
    ``costs``               the hardware in results/costs.toml; None: nobody has published numbers
    """

    name: str
    restricted: bool
    architectures: tuple[str, ...]
    guest_object: GuestObject | None
    cpu_model: str | None
    interface: Interface | None
    attestation: Attestation | None
    host_policy: HostPolicy | None
    image: str | None
    sharing_firmware: str | None
    disk_refusals: tuple[DiskRefusal, ...]
    upgrade_refusal: str | None
    costs: str | None
    thin_functions: tuple[str, ...]
    fault_words: tuple[tuple[str, str], ...]

    @property
    def default_architecture(self) -> Architecture:
        """The architecture of a guest that nothing else tells it of."""
        if DEFAULT_ARCHITECTURE.name in self.architectures:
            return DEFAULT_ARCHITECTURE
        return ARCHITECTURES.choose("architecture", self.architectures[0])

    def require_architecture(self, name: str) -> None:
        """Raise ConfigError unless guests of the architecture *name* can have the profile."""
        if name not in self.architectures:
            raise ConfigError(
                f"profile {self.name} is for guests of {either(self.architectures)}, and this one is "
                f"of {name}",
                hint=f"boot a guest of {either(self.architectures)}, or --coco off",
            )

    def disk_refusal(self, firmware: str) -> str | None:
        """Return why *firmware* cannot boot from a disk, None if it can."""
        reasons = (item.reason for item in self.disk_refusals if item.firmware == firmware)
        return next(reasons, None)


@final
class Profiles:
    """All rows by name, in the order in which lists show them.

    A test may make a collection of its own, with *rules* for its rows; without them the plugin's
    rules file has them.
    """

    def __init__(self, rows: Iterable[Profile], rules: "Mapping[str, Rules] | None" = None) -> None:
        self._rows = {row.name: row for row in rows}
        self._rules = rules

    def __iter__(self) -> Iterator[Profile]:
        return iter(self._rows.values())

    def __getitem__(self, name: str) -> Profile:
        """Return the row *name*; raise ConfigError if there is none."""
        row = self._rows.get(name)
        if row is None:
            raise ConfigError(
                f"there is no profile {name!r}", hint=f"profiles are {', '.join(self.names)}"
            )
        return row

    @property
    def names(self) -> tuple[str, ...]:
        """Return what ``--coco`` may be."""
        return tuple(self._rows)

    def where(self, holds: Callable[[Profile], object]) -> tuple[str, ...]:
        """Return the names of the rows for which *holds* is true."""
        return tuple(row.name for row in self if holds(row))

    @property
    def host_policies(self) -> tuple[HostPolicy, ...]:
        """Each policy that a row has, once."""
        return tuple(dict.fromkeys(row.host_policy for row in self if row.host_policy is not None))

    def layout(self, name: str) -> "Layout":
        """Return the layout that the rules give a profile with restricted memory."""
        if self._rules is not None:
            return self._rules[name].layout
        from cvmlab.memory.states import profiles  # numpy is not needed to know the names

        return profiles()[name].layout


def either(names: Iterable[str]) -> str:
    """Return ``a``, ``a or b``, ``a, b or c``."""
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last
