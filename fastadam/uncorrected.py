r"""Adam without its own bias corrections, for libraries whose formula has them, and epsilon, elsewhere.

scikit-learn and thinc (and Keras) take the step

.. math:: \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \cdot \frac{m_t}{\sqrt{v_t} + \hat\epsilon}

with the "epsilon hat" of Kingma and Ba, ICLR 2015, arXiv:1412.6980, section 2; this library and torch take that of
Algorithm 1, in which epsilon is added after the correction of :math:`v_t`. No constant epsilon makes one of the
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.adam import Adam
from fastadam.memory.arrays import Array

# After so many steps both bias corrections are 1, whatever the betas: 1 - 2**-53, the greatest number below 1, to
# the power of 2**60 is 1e-56.
LATE = 2**60


class UncorrectedAdam:
    r"""Take the step :math:`rate \cdot m / (\sqrt v + \epsilon)`, with what is new in each step in `rate`.

    Parameters
    ----------
    params : sequence of ndarray
        As `fastadam.Adam` takes them; updated in place.
    betas : pair of float
    eps : float
    moments : pair of sequences of ndarray, optional
        Where they are at the beginning, instead of at zero; copied.
    """

    def __init__(
        self,
        params: Sequence[Array],
        betas: tuple[float, float],
        eps: float,
        moments: tuple[Sequence[Array], Sequence[Array]] | None = None,
    ) -> None:
        self._rate = 0.0
        self._options = (*betas, eps)
        self._adam = Adam(params, self._current_rate, betas, eps)
        self._count = len(self._adam.param_groups[0]["params"])
        first, second = moments or [[np.zeros(p.shape, p.dtype) for p in params]] * 2
        state = {
            i: {"step": LATE, "exp_avg": m, "exp_avg_sq": v}
            for i, (m, v) in enumerate(zip(first, second, strict=True))
        }
        self._adam.load_state_dict({**self._adam.state_dict(), "state": state})

    def _current_rate(self, step: int) -> float:
        return self._rate

    def step(self, grads: Sequence[Array], rate: float, betas: tuple[float, float], eps: float) -> None:
        """Take a step.

        Raises
        ------
        TypeError, ValueError
            If a gradient or an option is not what it must be; nothing has changed then.
        """
        options = (*betas, eps)
        if options != self._options:
            self._adam.param_groups[0].update(betas=betas, eps=eps)
            self._options = options
        self._rate = rate
        self._adam.step(grads)

    def moments(self, name: str) -> list[Any]:
        """Return live views of the moments ``"exp_avg"`` or ``"exp_avg_sq"``."""
        return [self._adam.state[i][name] for i in range(self._count)]
