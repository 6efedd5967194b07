"""The second stage of a step in Python, for backends whose steps are not one native call: the rows of scalars."""

from __future__ import annotations

import numpy as np

from fastadam.memory.structs import Rates, Varying
from fastadam.step.backend import PartOfPlan
from fastadam.step.coefficients import varying
from fastadam.step.counters import read

_N_RATES, _N_VARYING = len(Rates._fields), len(Varying._fields)


def reduce(part: PartOfPlan) -> None:
    """Compute the scalars that move with the step, for the step after those that have been counted.

    Parameters
    ----------
    part : PartOfPlan
        Its first ``memory["n_row_inputs"]`` rows are written to.
    """
    n = part.memory["n_row_inputs"].item()
    if n:
        # The fields that move come first.
        part.rows.view(np.float64).reshape(len(part.rows), -1)[:n, :_N_VARYING] = [
            varying(Rates._make(inputs[:_N_RATES]), read(*inputs[_N_RATES]) + 1)
            for inputs in part.row_inputs[:n].tolist()
        ]
