"""Which contenders of a problem fit into the memory, all at once as they must to take their turns."""

from __future__ import annotations

from fastadam.cli.contenders import BY_HAND
from fastadam.cli.measure import Contender, Problem
from fastadam.cli.memory import readable

SHARE_OF_MEMORY = 0.8  # the rest is left to everything else
# Beside the library's own backends: what is left out before them, and what after.
BEFORE, AFTER = ("optax",), ("torch default", "torch fused", BY_HAND)


def in_order(contenders: list[str]) -> list[str]:
    """Return who has to go, the first one first; whoever comes last stays as long as anything fits.

    optax, which holds by far the most, goes first. Then the library's own backends but the fastest, from the last
    one on: what a table is read for is how the fastest compares with the others. Then the others, NumPy by hand
    as their last; and in the end the ways to use the fastest backend, the one with the least memory as the last.
    """
    backends = list(dict.fromkeys(_backend(name) for name in contenders if _backend(name)))
    own = [name for backend in reversed(backends) for name in contenders if _backend(name) == backend]
    fastest = [name for name in own if _backend(name) == backends[0]]
    faces = [name for name in contenders if name.startswith("fastadam.")]
    order = [*BEFORE, *(name for name in own if name not in fastest), *AFTER, *faces, *fastest]
    return [name for name in order if name in contenders]


def _backend(name: str) -> str:
    for layout in ("packed ", "in place "):
        if name.startswith(layout):
            return name.removeprefix(layout).partition(",")[0]
    return ""


def fit(
    problem: Problem, contenders: dict[str, Contender], itemsize: int, at_hand: int | None
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return the contenders that fit into the memory, and why others are left out.

    Parameters
    ----------
    problem : Problem
        What they step over.
    contenders : dict of Contender
        By name, in the order in which they are shown.
    itemsize : int
        Bytes of a number.
    at_hand : int or None
        Bytes that can be had; None if nobody knows, and then all take part.

    Returns
    -------
    dict of Contender
        Empty if not even one fits.
    dict of str
        A reason by the name of each other; all have the same one.
    """
    if at_hand is None:
        return contenders, {}
    kept = dict(contenders)
    order = in_order(list(contenders))
    for name in order:
        needed = problem.bytes_needed(kept, itemsize)
        if needed <= SHARE_OF_MEMORY * at_hand:
            break
        least = needed
        del kept[name]
    all_needed = readable(problem.bytes_needed(contenders, itemsize))
    if kept:
        would = f"all {len(contenders)} contenders would take about {all_needed}"
    else:
        would = f"even {order[-1]} alone would take about {readable(least)}"
    reason = (
        f"not enough memory: {would}, and bench uses at most {readable(int(SHARE_OF_MEMORY * at_hand))} "
        f"({SHARE_OF_MEMORY:.0%} of the {readable(at_hand)} available)"
    )
    return kept, dict.fromkeys((name for name in contenders if name not in kept), reason)
