"""Progress a person can follow: one live line in a terminal, one line a stage elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from temper.text.invisible import spelled_out
from temper.train.run import Progress, Watch

# Where nobody watches live, a stage that goes on says so now and then: logs stay short, and a hung run is still noticed.
QUIET_SECONDS = 60.0


@contextmanager
def watching() -> Iterator[Watch]:
    """A watcher for the run under way, live if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield _Plain()
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield _Live(live)


def line(p: Progress) -> str:
    """One line: stage, step, speed, time left, numbers."""
    stage = spelled_out(p.stage)  # a suite goes by its file's name
    parts = [f"{stage}  {p.step}/{p.total}"] if p.total > 1 else [stage]
    if p.tokens_per_second:
        parts.append(f"{p.tokens_per_second:.0f} tokens/s")
    if p.seconds_left is not None:
        parts.append(f"{clock(p.seconds_left)} left")
    parts += [f"{k} {v:.3f}" for k, v in p.notes.items() if v is not None]
    return " · ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as 12 s, 3:05 or 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


class _Plain:
    def __init__(self) -> None:
        self.stage, self.last = "", 0.0

    def __call__(self, p: Progress) -> None:
        if p.alarm:
            print(spelled_out(f"alarm: {p.stage}, step {p.step}: {p.alarm}"), file=sys.stderr, flush=True)  # noqa: T201
        now = time.monotonic()
        if p.stage != self.stage or p.step >= p.total or now - self.last > QUIET_SECONDS:
            print(line(p), file=sys.stderr, flush=True)  # noqa: T201
            self.stage, self.last = p.stage, now


class _Live:
    def __init__(self, live: Any) -> None:
        self.live, self.stage, self.started = live, "", time.monotonic()
        self.previous: Progress | None = None

    def __call__(self, p: Progress) -> None:
        from rich.markup import escape

        if self.previous is not None and p.stage != self.previous.stage:
            took = clock(time.monotonic() - self.started)
            stage = escape(spelled_out(self.previous.stage))
            self.live.console.print(f"[green]✓[/green] {stage} [dim]{took}[/dim]", highlight=False)
            self.started = time.monotonic()
        self.previous = p
        if p.alarm:
            said = escape(spelled_out(f"{p.stage}, step {p.step}: {p.alarm}"))
            self.live.console.print(f"[yellow]alarm[/yellow] {said}", highlight=False)
        share = p.step / max(1, p.total)
        bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
        self.live.update(escape(f"{bar} {line(p)}"), refresh=True)
