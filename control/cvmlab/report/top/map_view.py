# SPDX-License-Identifier: GPL-2.0-or-later
"""The heat map: a character a cell, with a cursor and a selection."""

import os
from typing import final

import numpy as np
from rich.style import Style
from rich.text import Text
from textual.binding import Binding
from textual.events import Click, Resize
from textual.message import Message
from textual.widget import Widget
from typing_extensions import override

from cvmlab.memory.live_map import Grid, Window
from cvmlab.memory.page_map import FULL, LETTERS, SHADES, front
from cvmlab.memory.ranges import GpaRange, Slot
from cvmlab.memory.states import PageState
from cvmlab.memory.table import STATES


MARGIN = 15  # the address in front of each line
COLOURS = {
    PageState.PENDING: "grey42",
    PageState.PRIVATE: "dodger_blue2",
    PageState.SHARED: "orange1",
    PageState.POISONED: "red1",
}


@final
class MapView(Widget, can_focus=True):
    """Shows a window of memory; says when cursor or selection moved."""

    BINDINGS = [  # noqa: RUF012 - Textual reads it from the class
        Binding("left", "step(-1, 0)", show=False),
        Binding("right", "step(1, 0)", show=False),
        Binding("up", "step(0, -1)", show=False),
        Binding("down", "step(0, 1)", show=False),
        Binding("home", "edge(0)", show=False),
        Binding("end", "edge(1)", show=False),
        Binding("v", "mark", "Select"),
        Binding("plus,equals_sign", "zoom(1)", "Zoom", key_display="+-0"),
        Binding("minus", "zoom(-1)", show=False),
        Binding("0", "zoom(0)", show=False),
    ]

    class Moved(Message):
        """Cursor or selection stand for other memory now."""

    def __init__(self, slots: tuple[Slot, ...]) -> None:
        super().__init__(id="map")
        self._window = Window.whole(slots, 1)
        self._shown = self._window  # the one that the grid is of
        self._grid: Grid = np.zeros((0, STATES), np.int64)
        self._plain = bool(os.environ.get("NO_COLOR"))
        self.cursor = 0
        self.marked: int | None = None

    @property
    def window(self) -> Window:
        return self._window

    @property
    def columns(self) -> int:
        return max(self.size.width - MARGIN, 1)

    @property
    def selection(self) -> tuple[int, int]:
        """First and last cell that are selected: the cursor's, if nothing else."""
        other = self.cursor if self.marked is None else self.marked
        return min(self.cursor, other), max(self.cursor, other)

    @property
    def selected(self) -> list[GpaRange]:
        return self._window.ranges(*self.selection)

    def show(self, window: Window, grid: Grid) -> None:
        """Draw pages by state; *grid* is that of *window*."""
        self._shown, self._grid = window, grid
        self.refresh()

    def on_resize(self, event: Resize) -> None:
        page = self._window.first + self.cursor * self._window.cell_pages
        self._window = self._window.resized(max(event.size.width - MARGIN, 1) * event.size.height)
        self._go(self._window.cell_of(page))

    def on_click(self, event: Click) -> None:
        if event.x >= MARGIN:
            self._go(event.y * self.columns + event.x - MARGIN)

    def action_step(self, right: int, down: int) -> None:
        wanted = self.cursor + right + down * self.columns
        if wanted < 0 or wanted >= self._window.used:
            self._scroll(-1 if wanted < 0 else 1)
        self._go(wanted if 0 <= wanted < self._window.used else self.cursor)

    def action_edge(self, end: int) -> None:
        self._go(self._window.used - 1 if end else 0)

    def action_mark(self) -> None:
        """Begin to select at the cursor, or stop."""
        self.marked = self.cursor if self.marked is None else None
        self._go(self.cursor)

    def action_zoom(self, way: int) -> None:
        """Look closer, from further away, or (0) at everything."""
        page = self._window.first + self.cursor * self._window.cell_pages
        if way:
            self._window = self._window.zoomed(self.cursor, closer=way > 0)
        else:
            self._window = Window.whole(self._window.slots, self._window.cells)
        self.marked = None
        self._go(self._window.cell_of(page))

    def _scroll(self, rows: int) -> None:
        page = self._window.first + self.cursor * self._window.cell_pages
        self._window = self._window.moved(rows * self.columns)
        self.cursor = self._window.cell_of(page)
        self.marked = None

    def _go(self, cell: int) -> None:
        self.cursor = min(max(cell, 0), max(self._window.used - 1, 0))
        self.refresh()
        self.post_message(self.Moved())

    @override
    def render(self) -> Text:
        text = Text(no_wrap=True, end="")
        columns, (low, high) = self.columns, self.selection
        for first in range(0, len(self._grid), columns):
            text.append(f"{self._shown.address(first):#014x} ", "grey62")
            for cell in range(first, min(first + columns, len(self._grid))):
                char, style = self._cell(cell)
                if low <= cell <= high:
                    style += Style(reverse=True, bold=True)
                text.append(char, style)
            text.append("\n")
        return text

    def _cell(self, cell: int) -> tuple[str, Style]:
        state, part = front(self._grid[cell])
        style = Style(color=COLOURS[state])
        if self._plain:
            return LETTERS[state][part >= 1.0], style
        if state is PageState.PENDING:
            return "·", style
        return next((char for limit, char in SHADES if part < limit), FULL), style
