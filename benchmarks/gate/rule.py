"""When a commit counts as slower."""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

TOLERANCE = 0.10  # a case may be so much slower
# The place in memory that a process happens to get makes a step faster or slower for as long as it lives, so only
# new processes are independent of each other. An alarm needs nearly all of the pairs of processes to agree.
SHARE_THAT_AGREES = 0.8


class Verdict(NamedTuple):
    """What was found of one case: head's time over base's, and whether it is too much."""

    ratio: float
    low: float
    high: float
    slower: bool


def pair_ratio(base: list[float], head: list[float]) -> float:
    """Return head's time over base's for a pair of processes that took turns, from the seconds of each turn.

    It is the ratio of the shortest: whatever else runs on the machine only ever adds to a turn.
    """
    return min(head) / min(base)


def judge(ratios: list[float], tolerance: float = TOLERANCE) -> Verdict:
    """Judge a case by the ratio of each pair of processes.

    Parameters
    ----------
    ratios : list of float
        Head's time over base's, by pair (see `pair_ratio`).
    tolerance : float
        How much slower a case may be: 0.1 is ten percent.

    Returns
    -------
    Verdict
        `slower` where at least `SHARE_THAT_AGREES` of the pairs are beyond the tolerance; `ratio` is their median,
        `low` and `high` are the smallest and the largest.
    """
    beyond = sum(ratio > 1 + tolerance for ratio in ratios)
    slower = beyond >= math.ceil(SHARE_THAT_AGREES * len(ratios))
    return Verdict(statistics.median(ratios), min(ratios), max(ratios), slower)
