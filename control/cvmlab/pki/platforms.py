# SPDX-License-Identifier: GPL-2.0-or-later
"""The platform that a guest is said to run on: its identity and the versions of its firmware.  Pure.

Each field is an option of ``--attest-option``.  The defaults are up to date for the services of
``cvmlab attest serve``.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Self

from cvmlab.base.choices import choose
from cvmlab.base.errors import ConfigError


COMPONENTS: Final = 16
PCK_CAS: Final = ("platform", "processor")
CHIP_BYTES: Final = 64
QUOTE_VERSIONS: Final = (4, 5)
DEFAULT_QUOTE_VERSION: Final = QUOTE_VERSIONS[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """An AMD processor family, as its key service and its reports know it.

    ``spl_at`` has the byte of each version in a TCB_VERSION.
    """

    name: str
    stepping_name: str
    report_version: int
    cpuid: tuple[int, int, int]  # family, model, stepping
    chip_bytes: int  # of CHIP_ID, the rest is zeros
    spl_at: dict[str, int]

    def tcb_bytes(self, versions: dict[str, int]) -> bytes:
        """Return a TCB_VERSION."""
        return bytes(
            next((versions[name] for name, at in self.spl_at.items() if at == byte), 0)
            for byte in range(8)
        )


_SPLS: Final = {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7}
PRODUCTS: Final = {
    "milan": Product(
        name="Milan", stepping_name="Milan-B0", report_version=2, cpuid=(0x19, 0x01, 0),
        chip_bytes=64, spl_at=_SPLS,
    ),
    "genoa": Product(
        name="Genoa", stepping_name="Genoa-B1", report_version=3, cpuid=(0x19, 0x11, 1),
        chip_bytes=64, spl_at=_SPLS,
    ),
    "turin": Product(
        name="Turin", stepping_name="Turin-C1", report_version=5, cpuid=(0x1A, 0x02, 1),
        chip_bytes=8, spl_at={"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7},
    ),
}  # fmt: skip


class _Options:
    """Reads ``NAME=VALUE`` into the fields of a dataclass, with the reader that each one has."""

    READERS: ClassVar[dict[str, Callable[[str], Any]]]

    @classmethod
    def of(cls, options: Iterable[str]) -> Self:
        """Return the platform of these options; raise ConfigError."""
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        values = {}
        for option in options:
            word, _, text = option.partition("=")
            label = f"--attest-option {option}"
            if not text:
                raise ConfigError(f"{label} is not NAME=VALUE", hint=_names(known))
            name = choose(label, word, [_word(name) for name in known]).replace("-", "_")
            try:
                values[name] = cls.READERS[name](text)
            except ValueError as error:
                raise ConfigError(f"{label}: {error}", hint=_HINTS[name]) from None
        return cls(**values)


def _word(name: str) -> str:
    return name.replace("_", "-")


def _names(known: Iterable[str]) -> str:
    return f"names are {', '.join(map(_word, known))}"


def _hex(size: int) -> Callable[[str], bytes]:
    def read(text: str) -> bytes:
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size:
            raise ValueError(f"it must be {2 * size} hexadecimal digits")
        return value

    return read


def _number(limit: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) > limit:
            raise ValueError(f"it must be a number up to {limit}")
        return int(text)

    return read


def _svns(text: str) -> tuple[int, ...]:
    numbers = [_number(255)(part) for part in text.split(".")]
    if len(numbers) > COMPONENTS:
        raise ValueError(f"it has {COMPONENTS} numbers at most")
    return (*numbers, *[0] * (COMPONENTS - len(numbers)))


def _ca(text: str) -> str:
    if text not in PCK_CAS:
        raise ValueError(f"{text} is none of {', '.join(PCK_CAS)}")
    return text


def _quote_version(text: str) -> int:
    if text not in map(str, QUOTE_VERSIONS):
        raise ValueError(f"{text} is none of {', '.join(map(str, QUOTE_VERSIONS))}")
    return int(text)


def _product(text: str) -> str:
    if text not in PRODUCTS:
        raise ValueError(f"{text} is none of {', '.join(PRODUCTS)}")
    return text


def _chip(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if not 0 < len(value) <= CHIP_BYTES:
        raise ValueError(f"it must be 2 to {2 * CHIP_BYTES} hexadecimal digits")
    return value


_HINTS: Final = {
    "ca": "processor for a machine with one package, platform for one with more",
    "fmspc": "such as 00906ed50000",
    "pce_id": "such as 0000",
    "pce_svn": "such as 11",
    "cpu_svn": "16 numbers with dots between, the rest is zeros: 4.4.2",
    "tee_tcb_svn": "16 numbers with dots between, the rest is zeros: 5.1.6",
    "quote_version": "most verifiers read 4",
    "product": "--attest-option product=genoa",
    "chip_id": "up to 64 bytes, the rest is zeros",
    "implementation_id": "64 hexadecimal digits",
    "lifecycle": "12288 is secured",
    "config": "such as cfcfcfcf",
    "version": "such as 1.0",
    "csp": "the name of a cloud provider, which signs by its VLEK",
    **dict.fromkeys(("fmc", "boot_loader", "tee", "snp", "microcode"), "such as 4"),
}


def _name(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("it must be ASCII text")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPlatform(_Options):
    """A platform with TDX: ``cpu_svn`` are the SGX TCB components, ``tee_tcb_svn`` the TDX module's.

    ``quote_version`` is of the quotes that it makes.
    """

    READERS: ClassVar = {
        "ca": _ca, "fmspc": _hex(6), "pce_id": _hex(2), "pce_svn": _number(0xFFFF), "cpu_svn": _svns,
        "tee_tcb_svn": _svns, "quote_version": _quote_version,
    }  # fmt: skip

    ca: str = "platform"
    fmspc: bytes = bytes.fromhex("00906ed50000")
    pce_id: bytes = bytes(2)
    pce_svn: int = 11
    cpu_svn: tuple[int, ...] = _svns("4.4.2.2.2.1.0.4")
    tee_tcb_svn: tuple[int, ...] = _svns("5.1.6")
    quote_version: int = DEFAULT_QUOTE_VERSION

    @property
    def key(self) -> str:
        """A name for the keys of this platform."""
        levels = ".".join(map(str, (*self.cpu_svn, self.pce_svn)))
        return f"{self.ca} {self.fmspc.hex()} {self.pce_id.hex()} {levels}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPlatform(_Options):
    """A processor with SNP, and the versions in its TCB.  With ``csp`` it has a VLEK, too."""

    READERS: ClassVar = {
        "product": _product, "chip_id": _chip, "csp": _name,
        **dict.fromkeys(("fmc", "boot_loader", "tee", "snp", "microcode"), _number(255)),
    }  # fmt: skip

    product: str = "genoa"
    chip_id: bytes = b"cvmlab: emulated, this is no chip"
    fmc: int = 1
    boot_loader: int = 7
    tee: int = 1
    snp: int = 14
    microcode: int = 72
    csp: str = ""

    @property
    def made(self) -> Product:
        """The row of the product."""
        return PRODUCTS[self.product]

    @property
    def chip(self) -> bytes:
        """CHIP_ID as in a report."""
        return self.chip_id[: self.made.chip_bytes].ljust(CHIP_BYTES, b"\0")

    @property
    def versions(self) -> dict[str, int]:
        """The versions that the product has."""
        return {name: getattr(self, name) for name in self.made.spl_at}

    @property
    def tcb(self) -> bytes:
        """TCB_VERSION as in a report."""
        return self.made.tcb_bytes(self.versions)

    @property
    def key(self) -> str:
        """A name for the keys of this processor."""
        return f"{self.product} {self.chip.hex()} {self.tcb.hex()}"


def _bytes(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if not value:
        raise ValueError("it must be hexadecimal digits, two for each byte")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class CcaPlatform(_Options):
    """A platform with CCA: what its token says of it.  ``version`` is the monitor's."""

    READERS: ClassVar = {
        "implementation_id": _hex(32), "lifecycle": _number(0xFFFF), "config": _bytes, "version": _name,
    }  # fmt: skip

    implementation_id: bytes = b"cvmlab: emulated, no platform".ljust(32, b"\0")
    lifecycle: int = 0x3000  # secured
    config: bytes = b"\xcf\xcf\xcf\xcf"
    version: str = "1.0"


# By the word that a profile's row has for its attestation service.
PLATFORMS: Final[Mapping[str, type[TdxPlatform] | type[SnpPlatform] | type[CcaPlatform]]] = {
    "tdx-quotes": TdxPlatform,
    "snp-requests": SnpPlatform,
    "cca-tokens": CcaPlatform,
}
