"""The live display of a run: epoch, loss, metrics, learning rate, time left, steps a second.

Shown on a terminal and in a notebook; a pipe, a file or a log sees nothing. It is two lines at the bottom of the
terminal that wrap where it is narrow, redrawn ten times a second, and left standing with the final figures.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from backlit.train.history import figure

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

WINDOW_SECONDS = 3.0
"""Steps a second are those of about this long."""


@dataclass
class Progress:
    """A display of `epochs` epochs of `steps` steps each (None where that is not known). A context manager.

    `console` is a rich Console, by default that of standard error; nothing is shown unless it is a terminal.
    """

    epochs: int
    steps: int | None
    console: Console | None = None
    shown: bool = True
    done_epochs: int = 0
    _live: Any = field(init=False, default=None)
    _step: int = field(init=False, default=0)
    _recent: deque[tuple[float, int]] = field(init=False, default_factory=deque)  # time, steps until then
    _began: float = field(init=False, default=0.0)
    _shown: float = field(init=False, default=0.0)
    _total: int = field(init=False, default=0)  # steps since the beginning of the display
    _figures: dict[str, float] = field(init=False, default_factory=dict)
    _note: str = field(init=False, default="")

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.live import Live

        console = self.console if self.console is not None else Console(stderr=True)
        self._began = time.monotonic()
        if self.shown and (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))):
            self._live = Live(get_renderable=lambda: self, console=console, refresh_per_second=10, transient=False)
            self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.stop()
            self._live = None

    def advance(self, step: int, taken: int, figures: Callable[[], Mapping[str, float]]) -> None:
        """`taken` more steps have run; the epoch stands at `step`. `figures` is asked only when they are shown."""
        now = time.monotonic()
        self._step, self._total = step, self._total + taken
        if self._live is not None and now - self._shown > 0.1:
            self._figures |= figures()
            self._shown = now
        if not self._recent or now - self._recent[-1][0] > 0.02:
            self._recent.append((now, self._total))
        while len(self._recent) > 2 and now - self._recent[0][0] > WINDOW_SECONDS:
            self._recent.popleft()

    def epoch(self, number: int, figures: Mapping[str, float], note: str = "") -> None:
        """Epoch `number` (from 1) has ended with these figures."""
        self.done_epochs, self.steps, self._step = number, self.steps or self._step, 0
        self._figures = dict(figures)
        self._note = note

    def finish(self, note: str) -> None:
        """Say why the run ends, below the figures."""
        self._note = note

    def _share(self) -> float:
        within = self._step / self.steps if self.steps else 0.0
        return min(1.0, (self.done_epochs + within) / max(1, self.epochs))

    def _rate(self) -> float:
        """Steps a second; 0 while it is not known. The first call, which may have compiled, is left out."""
        if len(self._recent) < 2:
            return 0.0
        (start, before), (end, after) = self._recent[0], self._recent[-1]
        return (after - before) / (end - start)

    def _left(self) -> str:
        """The time left, or that has passed where the other is not known or the run is done."""
        rate = self._rate()
        if self.done_epochs >= self.epochs or not rate or not self.steps:
            return duration(time.monotonic() - self._began)
        return f"{duration(((self.epochs - self.done_epochs) * self.steps - self._step) / rate)} left"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """What the display shows now."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        epoch = min(self.epochs, self.done_epochs + (self.done_epochs < self.epochs))
        words = f"epoch {epoch}/{self.epochs}", f"{self._share():4.0%}", self._left()
        room = options.max_width - sum(map(len, words)) - len(words)
        head = Table.grid(padding=(0, 1), expand=False)
        for _ in range(4):
            head.add_column(no_wrap=True)
        bar = ProgressBar(total=1.0, completed=self._share(), width=min(room, 32)) if room >= 4 else ""
        head.add_row(words[0], bar, words[1], Text(words[2], style="cyan"))
        yield head
        parts = [(n, figure(v)) for n, v in self._figures.items() if n not in ("epoch", "step", "seconds")]
        if rate := self._rate():
            parts.append(("steps/s", f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"))
        line = Text()
        for name, value in parts:
            if line and len(line) + 3 + len(name) + 1 + len(value) > options.max_width:
                yield line
                line = Text()
            line.append("   " if line else "")
            line.append(f"{name} ", style="dim")
            line.append(value)
        yield line
        if self._note:
            yield Text(self._note, style="yellow")


def duration(seconds: float) -> str:
    """`0:07`, `12:40`, `3:05:00`."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
