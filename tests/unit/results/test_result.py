# SPDX-License-Identifier: GPL-2.0-or-later
import json

import jsonschema
import pytest

from cvmlab.base.errors import ConfigError, InvariantError
from cvmlab.results import result
from cvmlab.results.counts import Counters, PhaseCounters
from cvmlab.results.result import Outcome, Result


def a_result(**changes: object) -> Result:
    """A result with only what a boot that never started has."""
    values: dict[str, object] = {
        "cvmlab": "0.1.0",
        "outcome": Outcome.OK,
        "exit_code": 0,
        "message": "the guest booted",
        "coco": "generic",
        "firmware": "seabios",
        "memory_bytes": 1 << 30,
        "cpus": 1,
        "started": "2026-01-02T03:04:05Z",
        "duration": 1.5,
    }
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def full_result() -> Result:
    """A result with every field used."""
    return a_result(
        outcome=Outcome.HOST_FAULT,
        exit_code=81,
        hint="look at the first fault",
        layout="in-place",
        on_host_access="deny",
        kernel="6.12.107+deb13-cloud-amd64",
        qemu=result.Qemu(version="10.0.13", patch="0123abcd", tuning="lto"),
        pages=result.PagesByState(pending=200_000, private=62_144),
        counters=Counters(accepted=62_144, host_faults=2, to_shared=1),
        phases=(
            result.PhaseResult(
                name="kernel",
                seconds=2.5,
                host_seconds=3.0,
                counters=PhaseCounters(accepted=5),
            ),
        ),
        faults=(
            result.HostAccess(
                actor="device",
                device="disk0-pci",
                gpa=0x1234000,
                write=True,
                state="private",
                rip=0xFFFF_FFFF_8100_0040,
                symbol="virtqueue_add+0x40",
                verdict="deny",
                count=2,
            ),
        ),
        conversions=(
            result.Conversion(
                actor="vcpu", device=None, to="shared", symbol=None, pages=1, requests=1
            ),
        ),
        budgets=(
            result.BudgetLine(resource="faults", phase=None, limit=0, measured=2, kept=False),
        ),
        guest_exit=3,
        command=("qemu-system-x86_64", "-S"),
        run_dir="/somewhere",
    )


@pytest.mark.parametrize("document", [a_result(), full_result()])
def test_a_result_is_valid_by_the_published_schema_and_reads_back(document: Result) -> None:
    text = result.to_json(document)
    schema = json.loads(result.SCHEMA_PATH.read_text(encoding="utf-8"))

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(text), schema)
    assert result.from_json(text) == document


def test_the_published_schema_is_up_to_date() -> None:
    assert result.SCHEMA_PATH.read_text(encoding="utf-8") == result.schema_text()


def test_the_contract_of_the_design_is_in_the_document() -> None:
    document = json.loads(result.to_json(full_result()))

    assert document["emulated"] is True
    assert document["pages"].keys() == {"pending", "private", "shared", "poisoned"}
    assert document["counters"].keys() >= {
        "accepted",
        "to_shared",
        "to_private",
        "host_faults",
        "guest_violations",
        "events_dropped",
    }
    assert document["phases"][0].keys() == {"name", "seconds", "host_seconds", "counters"}


@pytest.mark.parametrize(
    "change",
    [
        {"emulated": False},
        {"exit_code": 256},
        {"outcome": "fine"},
        {"surprise": 1},
        {"duration": -1},
    ],
)
def test_a_document_against_the_contract_is_refused(change: dict[str, object]) -> None:
    document = json.loads(result.to_json(a_result())) | change
    schema = json.loads(result.SCHEMA_PATH.read_text(encoding="utf-8"))

    with pytest.raises(ConfigError, match="not a result of cvmlab"):
        result.from_json(json.dumps(document))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, schema)


def test_every_outcome_but_the_guests_own_failure_has_one_exit_code() -> None:
    assert set(Outcome) - set(result.EXIT_CODES) == {Outcome.GUEST_FAILED}
    codes = list(result.EXIT_CODES.values())
    assert {code for code in codes if codes.count(code) > 1} == {83, 84, 87, 255}
    assert result.EXIT_CODES[Outcome.DEFECT] == InvariantError.exit_code
