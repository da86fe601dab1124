# SPDX-License-Identifier: GPL-2.0-or-later
"""VMs as Prometheus metrics, on a text endpoint of this machine only."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from typing_extensions import override

from cvmlab.errors import ConfigError
from cvmlab.feed import Watched
from cvmlab.records import Phase
from cvmlab.states import Counter, PageState
from cvmlab.table import PageCounts


LOOPBACK = "127.0.0.1"
Metric = GaugeMetricFamily | CounterMetricFamily


@dataclass(frozen=True, slots=True)
class Reading:
    """One VM at one moment."""

    pages: PageCounts
    counters: Mapping[Counter, int]
    phase: Phase

    @classmethod
    def of(cls, vm: Watched) -> "Reading":
        return cls(vm.pages.counts(), vm.pages.counters(), vm.pages.phase)


NOTHING_YET = Reading(PageCounts(), {}, Phase.LAUNCH)


@final
class Readings(Collector):
    """The latest reading of each VM.  ``now`` is replaced whole: the server is another thread."""

    def __init__(self) -> None:
        self.now: Mapping[str, Reading] = {}

    @override
    def collect(self) -> Iterator[Metric]:
        now = self.now
        pages = GaugeMetricFamily("cvmlab_pages", "Pages by state", labels=["vm", "state"])
        phase = GaugeMetricFamily(
            "cvmlab_phase",
            "Boot phase: 0 launch, 1 firmware, 2 EFI stub, 3 kernel, 4 user",
            labels=["vm"],
        )
        events = CounterMetricFamily(
            "cvmlab_events", "What happened since launch, by kind", labels=["vm", "kind"]
        )
        for vm, reading in now.items():
            phase.add_metric([vm], reading.phase)
            for state in PageState:
                pages.add_metric([vm, state.word], getattr(reading.pages, state.word))
            for counter, value in reading.counters.items():
                events.add_metric([vm, counter.name.lower()], value)
        yield from (pages, phase, events)


@contextmanager
def serving(readings: Readings, port: int) -> Iterator[int]:
    """Serve *readings* on loopback while the block runs; yield the port, which 0 leaves open."""
    registry = CollectorRegistry()
    registry.register(readings)
    try:
        server, thread = start_http_server(port, LOOPBACK, registry)
    except OSError as error:
        raise ConfigError(
            f"port {port} cannot be served: {error.strerror}", hint="choose another --metrics port"
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
