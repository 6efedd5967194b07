"""One side of the comparison: takes steps with the fastadam that is on its path, whenever it is told to.

It answers each line on standard input, a case and a number of steps, with one on standard output, the seconds of
one of these steps. It runs as a file, so that the checkout, which has a fastadam of its own, is not on the path.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[2]))  # after the folder of the package that is measured

from benchmarks.suite.measured import TORCH_FACE, current, forget_editable_install, make_step, shapes_of

TURN = 4e-3  # seconds that a turn lasts, at least
PLANT = "FASTADAM_GATE_PLANT"  # a slowdown to plant: 0.2 is twenty percent


def cases() -> dict[str, tuple[str, str, Callable[[], list[tuple[int, ...]]]]]:
    """Return backend, layout and shapes by name."""
    return {
        "c, packed, 12 tensors": ("c", "packed", lambda: shapes_of(12)),
        "c, in place, 12 tensors": ("c", "in place", lambda: shapes_of(12)),
        "c, torch face, 12 tensors": ("c", TORCH_FACE, lambda: shapes_of(12)),
        "c, in place, 3,000 tensors": ("c", "in place", lambda: shapes_of(3000)),
        "c, packed, 1e5": ("c", "packed", lambda: [(10**5,)]),
        "c, packed, 1e7": ("c", "packed", lambda: [(10**7,)]),
        "numba, in place, 12 tensors": ("numba", "in place", lambda: shapes_of(12)),
        "numba, packed, 1e5": ("numba", "packed", lambda: [(10**5,)]),
    }


def main() -> None:
    """Make the steps of the cases that the arguments name, or of all, and then do as told until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints does not disturb the conversation
    forget_editable_install()
    timed = current("measure").timed
    steps, turns, left_out = {}, {}, {}
    for name, (backend, layout, shapes) in cases().items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            step = make_step(backend, layout, shapes())
        except NotImplementedError as why:
            left_out[name] = str(why)
            continue
        own = min(timed(step, 3) for _ in range(5))
        planted = own * float(os.environ.get(PLANT, "0"))
        steps[name] = slowed(step, planted) if planted else step
        turns[name] = max(1, round(TURN / own))
    import fastadam

    print(json.dumps({"from": fastadam.__file__, "cases": turns, "left out": left_out}), file=answers)
    for line in sys.stdin:
        name, count = line.rstrip("\n").rsplit(" ", 1)
        steps[name]()  # not timed: brings the arrays back into the cache
        print(json.dumps(timed(steps[name], int(count))), file=answers)


def slowed(step: Callable[[], object], seconds: float) -> Callable[[], object]:
    """Return the step with so much idle work after it."""

    def slow() -> None:
        step()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return slow


if __name__ == "__main__":
    main()
