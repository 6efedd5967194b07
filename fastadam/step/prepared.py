"""Steps as lists of native calls: what is made ready before, and then done in one go."""

from __future__ import annotations

from fastadam.memory.structs import APPLY, INSPECT, REDUCE, TAKEN
from fastadam.step.backend import PartOfPlan, Prepare, Prepared, Run
from fastadam.step.interrupts import in_one_go
from fastadam.step.reduce import reduce


def take(prepared: Prepared) -> None:
    """Do what was made ready; raises what its check raises."""
    in_one_go(prepared.calls)
    if prepared.check is not None:
        prepared.check()


def run_of(part: PartOfPlan, prepare: Prepare) -> Run:
    """Return ``run(stages)`` (see `fastadam.step.backend.Backend.bind`) of a backend that cannot inspect.

    Parameters
    ----------
    part : PartOfPlan
    prepare : callable
        What the backend's `bind_calls` has returned for it.
    """

    def run(stages: int) -> int:
        if stages & INSPECT:
            return 0  # Python looks at the gradients
        if stages & REDUCE:
            reduce(part)
        if stages & APPLY:
            take(prepare())
        return TAKEN

    return run
