"""Schedules that go up and down."""

from __future__ import annotations

from fastadam.schedules.checks import positive, rate, share, whole
from fastadam.schedules.schedule import Schedule, count_before, half_cosine, named


@named
class CosineRestarts(Schedule):
    """Half a cosine, again and again, each time from the top.

    It never ends. optax writes it as ``sgdr_schedule`` with a dict for each cycle.

    Parameters
    ----------
    start : float
        First value of the first cycle; not negative.
    steps : int
        How many steps the first cycle takes.
    growth : int, default 1
        How many times as long each cycle is as the one before.
    decay : float, default 1
        By what the first value is multiplied from one cycle to the next; at most 1.
    end : float, default 0
        The value towards which each cycle goes.

    References
    ----------
    Loshchilov and Hutter, ICLR 2017, arXiv:1608.03983.
    """

    _fields = ("start", "steps", "growth", "decay", "end")
    __slots__ = _fields
    start: float
    steps: int
    growth: int
    decay: float
    end: float

    def __init__(self, start: float, steps: int, growth: int = 1, decay: float = 1.0, end: float = 0.0) -> None:
        self._set(
            start=rate("start", start),
            steps=whole("steps", steps, 1),
            growth=whole("growth", growth, 1),
            decay=share("decay", decay),
            end=rate("end", end),
        )

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        count = count_before(step)
        length = self.steps
        if self.growth == 1:
            cycle, count = divmod(count, length)
        else:
            cycle = 0
            while count >= length:
                count -= length
                length *= self.growth
                cycle += 1
        return (self.start * self.decay**cycle - self.end) * half_cosine(count, length) + self.end


@named
class OneCycle(Schedule):
    """Up to a peak, and down to almost nothing: the "1cycle" policy.

    It begins at ``peak / div_factor`` and ends at ``peak / div_factor / final_div_factor``.

    Parameters
    ----------
    peak : float
        The greatest value; not negative.
    steps : int
        How many steps the whole cycle takes.
    pct_start : float, default 0.3
        The part of the steps in which it rises.
    div_factor : float, default 25
        The first value is the peak divided by this.
    final_div_factor : float, default 1e4
        The last value is the first one divided by this.
    anneal : str, default "cosine"
        ``"cosine"`` or ``"linear"``: the shape between two corners.
    pct_final : float, optional
        After which part of the steps the first value is reached again; from there it goes on to the last. Without
        it, it goes from the peak straight to the last value. (optax's ``cosine_onecycle_schedule`` has
        none, its ``linear_onecycle_schedule`` 0.85.)

    References
    ----------
    Smith and Topin, "Super-Convergence", 2017, arXiv:1708.07120.
    """

    _fields = ("peak", "steps", "pct_start", "div_factor", "final_div_factor", "anneal", "pct_final")
    __slots__ = _fields
    peak: float
    steps: int
    pct_start: float
    div_factor: float
    final_div_factor: float
    anneal: str
    pct_final: float | None

    def __init__(
        self,
        peak: float,
        steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        anneal: str = "cosine",
        pct_final: float | None = None,
    ) -> None:
        if anneal not in ("cosine", "linear"):
            raise ValueError(f"anneal must be 'cosine' or 'linear', got {anneal!r}")
        self._set(
            peak=rate("peak", peak),
            steps=whole("steps", steps, 1),
            pct_start=share("pct_start", pct_start),
            div_factor=positive("div_factor", div_factor),
            final_div_factor=positive("final_div_factor", final_div_factor),
            anneal=str(anneal),
            pct_final=None if pct_final is None else share("pct_final", pct_final),
        )
        if self.pct_final is not None and self.pct_final < self.pct_start:
            raise ValueError(f"pct_final must be at least pct_start ({self.pct_start}), got {self.pct_final}")

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        count = count_before(step)
        first = self.peak / self.div_factor
        last = first / self.final_div_factor
        if count >= self.steps:
            return last
        top = int(self.pct_start * self.steps)
        if count < top:
            return self._between(first, self.peak, count, top)
        if self.pct_final is None:
            return self._between(self.peak, last, count - top, self.steps - top)
        foot = int(self.pct_final * self.steps)
        if count < foot:
            return self._between(self.peak, first, count - top, foot - top)
        return self._between(first, last, count - foot, self.steps - foot)

    def _between(self, start: float, end: float, count: int, steps: int) -> float:
        share = half_cosine(count, steps) if self.anneal == "cosine" else 1.0 - count / steps
        return (start - end) * share + end
