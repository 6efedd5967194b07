"""How much of the processors others take while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

STATISTICS = Path("/proc/stat")  # Linux alone has it
# Columns of its lines, in clock ticks: time in which a processor did something, and time that a host took away.
USED = (1, 2, 3, 6, 7, 8)  # user, nice, system, irq, softirq, steal
BUSY_SHARE = 0.1  # of the processors, used by others
BUSY_WAIT = 0.1  # of the time, in which no thread of this process ran
SHORTEST = 0.2  # seconds; the clock ticks are too coarse for less


class Machine(NamedTuple):
    """What the machine did beside the measurement.

    Attributes
    ----------
    processors : int
        That this process may use.
    used_by_others : float or None
        How many of them others kept busy on average; None where the system does not tell, or it was too short.
    waited : float or None
        Share of the time in which no thread of this process ran; None if it was too short to tell.
    load_before, load_after : float or None
        The system's load averages of one minute; None where it has none.
    """

    processors: int
    used_by_others: float | None = None
    waited: float | None = None
    load_before: float | None = None
    load_after: float | None = None

    @property
    def busy(self) -> bool:
        """Whether others were at work enough to falsify times; by the load where the system tells no more."""
        if self.waited is not None and self.waited > BUSY_WAIT:
            return True
        if self.used_by_others is not None:
            return self.used_by_others > BUSY_SHARE * self.processors
        return self.load_before is not None and self.load_before > self.processors / 2

    def in_words(self) -> str:
        """Return what was found, as part of a sentence."""
        if self.used_by_others is not None:
            found = f"others used {self.used_by_others:.1f} of {_processors(self.processors)}"
        elif self.load_before is not None:
            found = f"load {self.load_before:.1f} before the start, {_processors(self.processors)}"
        else:
            found = "this system does not say what others did"
        if self.waited is not None and self.waited > BUSY_WAIT:
            found += f"; this process waited {self.waited:.0%} of the time"
        return found


def _processors(count: int) -> str:
    return f"{count} processor{'s' if count > 1 else ''}"


class Watch:
    """Begins to watch the machine when it is made."""

    def __init__(self) -> None:
        self.processors = _usable()
        self.load = load()
        self.wall, self.own = time.monotonic(), time.process_time()
        self.used = _used(self.processors)

    def stop(self) -> Machine:
        """Return what the machine did since then."""
        wall, own = time.monotonic() - self.wall, time.process_time() - self.own
        used = _used(self.processors)
        others = waited = None
        if wall >= SHORTEST:
            waited = max(0.0, 1 - own / wall)
            # Some sandboxes show counters that stand still: what counts less than this process used tells nothing.
            if used is not None and self.used is not None and used - self.used >= 0.9 * own:
                others = max(0.0, (used - self.used - own) / wall)
        return Machine(len(self.processors), others, waited, self.load, load())


def load() -> float | None:
    """Return the load average of the last minute, or None."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def _usable() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _used(processors: set[int]) -> float | None:
    """Return the seconds in which these processors worked since the machine started, or None."""
    try:
        lines = [line.split() for line in STATISTICS.read_text().splitlines() if line.startswith("cpu")]
        of_each = {line[0]: line for line in lines}
        ticks = sum(int(of_each[f"cpu{number}"][column]) for number in processors for column in USED)
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, KeyError, IndexError, ValueError, AttributeError):
        return None
