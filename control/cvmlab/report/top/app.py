# SPDX-License-Identifier: GPL-2.0-or-later
"""The program around the heat map: phases, rates, the tail of faults, and the keys."""

from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import final

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.widgets import Footer, RichLog, Static
from typing_extensions import override

from cvmlab.base.errors import CvmError
from cvmlab.base.safe_text import safe
from cvmlab.memory.live_map import rates, sparkline
from cvmlab.memory.measures import MEASURES, Measures
from cvmlab.memory.page_map import Canvas, draw, share
from cvmlab.memory.ranges import PAGE_SIZE, GpaRange, format_size
from cvmlab.memory.records import Phase
from cvmlab.memory.states import PageState
from cvmlab.report.top.map_view import COLOURS, MapView
from cvmlab.report.top.view_source import ViewSource
from cvmlab.vm.operations import Target


REFRESH_S = 0.25
_HISTORY = 200
_SPARK = 10
_TAIL = 200


@final
class Top(App[None]):
    """Show *source* until the user quits; snapshots go to *folder*.

    It reads *source* every *refresh_s* seconds, and whenever look() is called.
    """

    CSS = """
    Screen { layout: vertical; }
    #head, #phases, #pages, #rates, #where { height: 1; }
    #head { background: $panel; text-style: bold; }
    #map { height: 1fr; min-height: 6; }
    #faults { height: 5; border-top: solid $panel; scrollbar-size-vertical: 1; }
    """
    BINDINGS = [  # noqa: RUF012 - Textual reads it from the class
        Binding("s", "convert('shared')", "Share"),
        Binding("p", "convert('private')", "Private"),
        Binding("y", "answer(1)", show=False),
        Binding("n,escape", "answer(0)", show=False),
        Binding("space", "pause", "Pause"),
        Binding("w", "snapshot", "Write map"),
        Binding("q", "quit", "Quit"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(
        self,
        source: ViewSource,
        *,
        folder: Path,
        refresh_s: float = REFRESH_S,
        measures: Measures = MEASURES,
    ) -> None:
        super().__init__()
        self._measures = measures
        self._refresh_s = refresh_s
        self._source = source
        self._folder = folder
        self._samples = deque([source.sample()], maxlen=5)  # rates are over a second or so
        self._history: deque[float] = deque(maxlen=_HISTORY)
        self._paused = False
        self._question: tuple[list[GpaRange], Target] | None = None
        self._map = MapView(tuple(source.slots))
        # Held, not looked up: the timer may fire once more while the screen is torn down.
        self._lines = {name: Static(id=name) for name in ("head", "phases", "pages", "rates")}
        self._lines["where"] = Static(id="where")
        self._faults = RichLog(id="faults", max_lines=_TAIL, wrap=False)

    @override
    def compose(self) -> ComposeResult:
        *above, below = self._lines.values()
        yield from above
        yield self._map
        yield below
        yield self._faults
        yield Footer()

    async def on_mount(self) -> None:
        self._map.focus()
        self._faults.can_focus = False
        self.set_interval(self._refresh_s, self.look)
        try:
            self._paused = await self._source.paused()
        except CvmError as error:
            self._complain(error)
        await self.look()

    async def on_map_view_moved(self) -> None:
        self._show_map()

    async def look(self) -> None:
        """Read the source and show it."""
        self._samples.append(self._source.sample())
        self._show_head()
        self._show_pages()
        self._show_rates()
        self._show_map()
        for line in await self._source.new_faults():
            self._faults.write(Text(line, no_wrap=True))

    def _say(self, where: str, text: Text | str) -> None:
        self._lines[where].update(text)

    def _show_head(self) -> None:
        doing = "paused" if self._paused else "running"
        doing = doing if self._source.alive else "ended"
        self._say("head", f" cvmlab top  {self._source.title}  {doing}  (emulated)")
        phases = Text(" ")
        for phase in Phase:
            now = phase is self._source.phase
            if phase is Phase.EFI_STUB and not now:
                continue  # not every boot has one
            passed = phase < self._source.phase
            style = "bold reverse" if now else ("" if passed else "grey42")
            phases.append(f" {phase.word} ", style)
            phases.append("" if phase is Phase.USER else " > ", "grey42")
        self._say("phases", phases)

    def _show_pages(self) -> None:
        counts, text = self._source.counts(), Text(" ")
        for state in PageState:
            pages = getattr(counts, state.word)
            text.append("■ ", COLOURS[state])
            text.append(f"{state.word} {share(pages, counts.total)}  ")
        self._say("pages", text)

    def _show_rates(self) -> None:
        shown = [row for row in self._measures.shown(self._samples[-1].counters) if row.is_live]
        names = [row.name for row in shown]
        found = rates(self._samples[0], self._samples[-1], names)
        latest = rates(self._samples[-2], self._samples[-1], names)
        self._history.append(sum(latest.values()))
        said = "  ".join(f"{row.label} {found[row.name]:,.0f}/s" for row in shown)
        self._say("rates", f" {said}  {sparkline(self._history, _SPARK)}")

    def _show_map(self) -> None:
        window = self._map.window
        self._map.show(window, window.grid(self._source.extents()))
        if self._question is not None:
            ranges, to = self._question
            self._say("where", Text(f" convert {_say(ranges)} to {to}? y/n", "bold reverse"))
        else:
            cell = format_size(window.cell_pages * PAGE_SIZE)
            self._say("where", f" {_say(self._map.selected)}  a cell is {cell}")

    def action_convert(self, to: str) -> None:
        """Ask whether to convert what is selected."""
        self._question = (self._map.selected, Target(to))
        self._show_map()

    def action_answer(self, yes: int) -> None:
        question, self._question = self._question, None
        if question is None or not yes:
            self._map.marked = None
        else:
            self._convert(*question)
        self._show_map()

    @work(group="commands")
    async def _convert(self, ranges: list[GpaRange], to: Target) -> None:
        try:
            pages = await self._source.convert(ranges, to)
        except CvmError as error:
            self._complain(error)
            return
        self._map.marked = None
        self.notify(f"{pages} pages are now {to}")

    @work(group="pause", exclusive=True)
    async def action_pause(self) -> None:
        """Stop the guest's CPUs, or let them run."""
        try:
            await self._source.set_paused(paused=not self._paused)
            self._paused = await self._source.paused()
        except CvmError as error:
            self._complain(error)

    def action_snapshot(self) -> None:
        """Write the map of all memory as text."""
        stamp = datetime.now(UTC).strftime("%H%M%S.%f")
        path = self._folder / f"map-{self._source.title.split()[0]}-{stamp}.txt"
        try:
            path.write_text(draw(self._source.extents, self._source.slots, Canvas(height=32)))
        except OSError as error:
            self.notify(f"{path} cannot be written: {error.strerror}", severity="error")
        else:
            self.notify(f"wrote {path}")

    def _complain(self, error: CvmError) -> None:
        self.notify(safe(error.message), severity="error", markup=False)


def _say(ranges: list[GpaRange]) -> str:
    return ", ".join(map(str, ranges)) or "nothing"
