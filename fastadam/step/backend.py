"""What a backend is, and what it gets: the part of a plan that it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, TypeAlias

from fastadam.memory.arrays import Array
from fastadam.memory.native import Block
from fastadam.step.after import After
from fastadam.step.norm import Norm

# What users call them; see `fastadam.backends`.
BackendName: TypeAlias = Literal["auto", "c", "numba", "numpy", "cuda"]
# ``run(stages)``, see `Backend.bind`.
Run = Callable[[int], int]
# One of those that `fastadam.step.interrupts.in_one_go` makes.
Call = Callable[[], object]


class Prepared(NamedTuple):
    """A step that has been made ready: all that it allocates is there, and what can be refused has been.

    Attributes
    ----------
    calls : list of callable
        Native ones, for `fastadam.step.interrupts.in_one_go`: they step all elements and raise the counters. They
        are made once, while what they were prepared from is as it was.
    check : callable or None
        To be called after them where it is not None: it raises what a device has reported meanwhile.
    """

    calls: list[Call]
    check: Callable[[], None] | None = None


# ``prepare()``, see `Backend.bind_calls`.
Prepare = Callable[[], Prepared]
# ``measure()``, see `Backend.bind_measure`.
Measure = Callable[[], object]


class PartOfPlan(NamedTuple):
    """The part of a plan that one backend runs; the whole of it where there is only one.

    Attributes
    ----------
    spans : ndarray of SPAN
        Of the whole plan.
    rows : ndarray of ROW
        Of the whole plan.
    row_inputs : ndarray of ROW_INPUTS
        What they are computed from.
    batches : ndarray of BATCH
        Those that this backend steps.
    counters : ndarray of COUNTER
        Room for what is to be counted; ``memory["n_counters"]`` are in use.
    memory : Block of PLAN
        What native code gets the address of. In it ``n_row_inputs`` and ``n_counters`` say how many rows this part
        computes and how many counters it raises: none, where the plan has several parts and does that itself.
    limit_given : bool
        Whether the user asked for the number of threads.
    norm : Norm
        What is wanted of the gradients' norm; ``memory["norm"]`` points at it.
    after : After
        What is done with numbers that have been stepped; ``memory["after"]`` points at it.
    ema_weights : ndarray of float64
        Of the whole plan: how far the averages of each row's spans move in a step.
    random_keys : ndarray of int64
        Of the whole plan: what the random bits of each row's spans come from.
    """

    spans: Array
    rows: Array
    row_inputs: Array
    batches: Array
    counters: Array
    memory: Block
    limit_given: bool
    norm: Norm
    after: After
    ema_weights: Array
    random_keys: Array


class Backend(Protocol):
    """Who takes steps: a module, or an object that stands for a device.

    Attributes
    ----------
    LEAVES_OUT : bool
        Whether sizes, elements and threads in a plan may change from step to step, as they do where spans are left
        out; native code takes all from the plan's memory then, and counts no row that is left out.
    """

    LEAVES_OUT: bool

    @property
    def cut_rows(self) -> Callable[[Block], int] | None:
        """``cut_rows(cut)`` cuts rows into runs in native code, as a Block of CUT says; it returns how many runs.

        Where it is not None, how many spans, batches, rows and counters a plan has may change from step to step,
        and where they lie.
        """

    def why_missing(self) -> str | None:
        """Return why this backend cannot be used here, or None if it can."""

    def bind(self, part: PartOfPlan) -> Run | None:
        """Return the function that runs a part of a plan each time it is called.

        Or return None, for the one that `fastadam.step.prepared.run_of` makes of `bind_calls`, where a step is not
        one native call.

        It need not keep the part alive: the plan keeps both. It is asked only where the part is the whole plan.

        Parameters
        ----------
        part : PartOfPlan

        Returns
        -------
        callable
            ``run(stages)``, with a sum of the stages in `fastadam.memory.structs`:

            - INSPECT looks at the object of every gradient, and notes the addresses in the spans. If a gradient is
              not plain, or this backend cannot tell, its slot is returned, and no further stage is run.
            - MEASURE adds up the squares of the gradients, if their norm is wanted.
            - REDUCE computes, from the whole, what has to be known before the first element is written: the norm,
              and the scalars of the part's rows, for the step that follows those that were counted.
            - APPLY steps all elements, moves the averages and lets gradients become zero, if that is wanted, and
              raises the counters. That is one thing: whatever interrupt arrives, both
              have happened or neither.

            A plan runs the last three together. So a backend whose device computes the norm may leave what MEASURE
            and REDUCE do about it to APPLY, if that needs no decision of the host's: then `Norm.fetch` gets the
            norm when it is asked for.

            It returns TAKEN when all stages asked for have been run, else the slot. A slot means that nothing was
            written but addresses of gradients, and that Python has to look, not that something is wrong. Or it
            returns SKIPPED or REFUSED, where gradients are not finite and that was asked for.
        """

    def bind_measure(self, part: PartOfPlan) -> Measure:
        """Return the function that runs the MEASURE of `bind` each time it is called.

        The squares are added up in the totals of ``part.norm``, of which those are cleared before that the part's
        threads have. They are there when it returns, also where a device has to be waited for. It is asked for
        only where a norm is wanted.
        """

    def bind_calls(self, part: PartOfPlan) -> Prepare:
        """Return the function that makes the APPLY of `bind` ready each time it is called.

        For work that goes together with others' in one go.

        Returns
        -------
        callable
            ``prepare()`` returns the step with the scalars in the rows and the addresses in the spans as they are
            now (see `Prepared`). It writes nothing that a user sees.
        """
