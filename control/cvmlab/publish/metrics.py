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

from cvmlab.base.errors import ConfigError
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.records import Phase
from cvmlab.memory.states import PageState
from cvmlab.memory.table import PageCounts
from cvmlab.publish.vm_feed import Feed


LOOPBACK = "127.0.0.1"
Metric = GaugeMetricFamily | CounterMetricFamily


@dataclass(frozen=True, slots=True)
class Reading:
    """One VM at one moment."""

    pages: PageCounts
    counters: Mapping[str, int]
    phase: Phase

    @classmethod
    def of(cls, feed: Feed) -> "Reading":
        """Read a VM; *feed* is read to its end, as some counts are only in the journal."""
        feed.read_on()
        return cls(feed.vm.pages.counts(), feed.counters(), feed.vm.pages.phase)


NOTHING_YET = Reading(PageCounts(), {}, Phase.LAUNCH)


@final
class Readings(Collector):
    """The latest reading of each VM.  ``now`` is replaced whole: the server is another thread."""

    def __init__(self, measures: Measures = MEASURES) -> None:
        self._help = ", ".join(f"{row.name}: {row.help}" for row in measures)
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
            "cvmlab_events", f"Counts since launch, by kind. {self._help}", labels=["vm", "kind"]
        )
        for vm, reading in now.items():
            phase.add_metric([vm], reading.phase)
            for state in PageState:
                pages.add_metric([vm, state.word], getattr(reading.pages, state.word))
            for name, value in reading.counters.items():
                events.add_metric([vm, name], value)
        yield from (pages, phase, events)


@contextmanager
def serving(readings: Readings, port: int) -> Iterator[int]:
    """Serve *readings* on loopback while the block runs; yield the port, which 0 leaves open."""
    registry = CollectorRegistry()
    registry.register(readings)
    try:
        server, thread = start_http_server(port, LOOPBACK, registry)
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"port {port} cannot be served: {getattr(error, 'strerror', error)}",
            hint="choose another --metrics port",
        ) from error
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
