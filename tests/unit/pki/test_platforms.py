# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``--attest-option`` says of a platform."""

import pytest

from cvmlab.base.errors import ConfigError
from cvmlab.pki.platforms import PLATFORMS, PRODUCTS, SnpPlatform, TdxPlatform


def test_options_are_fields() -> None:
    found = TdxPlatform.of(["fmspc=0123456789AB", "pce-svn=7", "cpu-svn=9.8", "tee-tcb-svn=3.0.4"])
    assert found == TdxPlatform(
        fmspc=bytes.fromhex("0123456789ab"), pce_svn=7, cpu_svn=(9, 8, *[0] * 14),
        tee_tcb_svn=(3, 0, 4, *[0] * 13),
    )  # fmt: skip
    snp = SnpPlatform.of(["product=milan", "chip-id=01", "boot-loader=2", "csp=a cloud"])
    assert (snp.product, snp.boot_loader, snp.csp) == ("milan", 2, "a cloud")
    assert snp.chip == b"\x01" + bytes(63)


@pytest.mark.parametrize("product", PRODUCTS)
def test_each_product_has_its_report(product: str) -> None:
    platform = SnpPlatform(product=product)
    assert 2 <= platform.made.report_version <= 5
    assert len(platform.tcb) == 8
    assert len(platform.chip) == 64


@pytest.mark.parametrize(
    ("service", "option", "message"),
    [
        ("tdx-quotes", "fmspc=12", "it must be 12 hexadecimal digits"),
        ("tdx-quotes", "fmspc=zzzzzzzzzzzz", "it must be 12 hexadecimal digits"),
        ("tdx-quotes", "fmspc=", "is not NAME=VALUE"),
        ("tdx-quotes", "fmspc", "is not NAME=VALUE"),
        ("tdx-quotes", "ca=root", "root is none of platform, processor"),
        ("tdx-quotes", "fmsp=1", "there is no 'fmsp'"),
        ("tdx-quotes", "product=milan", "there is no 'product'"),
        ("tdx-quotes", "pce-svn=-1", "it must be a number up to 65535"),
        ("tdx-quotes", "cpu-svn=1.256", "it must be a number up to 255"),
        ("tdx-quotes", "cpu-svn=" + ".".join("1" * 17), "it has 16 numbers at most"),
        ("tdx-quotes", "quote-version=3", "3 is none of 4, 5"),
        ("snp-requests", "product=rome", "rome is none of milan, genoa, turin"),
        ("snp-requests", "chip-id=" + "00" * 65, "it must be 2 to 128 hexadecimal digits"),
        ("snp-requests", "chip-id=x", "it must be 2 to 128 hexadecimal digits"),
        ("snp-requests", "snp=256", "it must be a number up to 255"),
        ("snp-requests", "csp=\n", "it must be ASCII text"),
        ("cca-tokens", "implementation-id=00", "it must be 64 hexadecimal digits"),
        ("cca-tokens", "lifecycle=65536", "it must be a number up to 65535"),
        ("cca-tokens", "config=x", "it must be hexadecimal digits, two for each byte"),
        ("cca-tokens", "chip-id=00", "there is no 'chip-id'"),
    ],
)
def test_a_wrong_option_is_said(service: str, option: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PLATFORMS[service].of([option])
    assert message in caught.value.message
    assert caught.value.hint
