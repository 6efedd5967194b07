"""The third stage of a step in Python, for backends whose steps are not one native call: norm and scalars."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastadam.memory.structs import TAKEN, Rates, Varying
from fastadam.step.after import weight_at
from fastadam.step.backend import PartOfPlan
from fastadam.step.coefficients import varying
from fastadam.step.compact import random_key
from fastadam.step.counters import read

_N_RATES, _N_VARYING = len(Rates._fields), len(Varying._fields)


def reduce(part: PartOfPlan, measured: Sequence[PartOfPlan] = ()) -> int:
    """Compute the norm, if it is wanted, and the scalars that move with the step, for the one after those counted.

    Parameters
    ----------
    part : PartOfPlan
        Its first ``memory["n_row_inputs"]`` rows are written to, and the weights of their averages.
    measured : sequence of PartOfPlan
        Those whose squares were added up, where it is not this one alone.

    Returns
    -------
    int
        TAKEN, or what stands in the way of the step (see `fastadam.memory.structs`).
    """
    totals = [each.norm.totals[: each.batches["threads"].max(initial=1)] for each in measured or (part,)]
    outcome = part.norm.reduce(totals)
    if outcome != TAKEN:
        return outcome
    write_rows(part, float(part.norm.block["scale"]))
    return TAKEN


def write_rows(part: PartOfPlan, scale: float) -> None:
    """Compute the scalars that move with the step, for the one after those counted.

    Parameters
    ----------
    part : PartOfPlan
        Its first ``memory["n_row_inputs"]`` rows are written to.
    scale : float
        What gradients are multiplied by, as far as the host knows it.
    """
    n = part.memory["n_row_inputs"].item()
    if n:
        inputs_of = part.row_inputs[:n].tolist()
        steps = [read(*inputs[_N_RATES]) + 1 for inputs in inputs_of]
        # The fields that move come first.
        part.rows.view(np.float64).reshape(len(part.rows), -1)[:n, :_N_VARYING] = [
            varying(Rates._make(inputs[:_N_RATES]), step, scale)
            for inputs, step in zip(inputs_of, steps, strict=True)
        ]
        part.random_keys.view(np.uint64)[:n] = [
            random_key(seed, int(step))
            for seed, step in zip(part.row_inputs["seed"][:n].tolist(), steps, strict=True)
        ]
        if part.after.averages:
            decay, warms_up = part.after.block["decay"].item(), part.after.block["warms_up"].item()
            part.ema_weights[:n] = [weight_at(step, decay, warms_up) for step in steps]
