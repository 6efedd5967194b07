"""scikit-learn's ``MLPClassifier`` and ``MLPRegressor`` with this library's steps."""

from __future__ import annotations

import contextlib
import copy
import math
import operator
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from fastadam.memory.arrays import Array
from fastadam.uncorrected import UncorrectedAdam

try:
    from sklearn.neural_network import _multilayer_perceptron as theirs
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer
except ImportError as error:
    raise ImportError(
        "fastadam.sklearn needs scikit-learn with its own AdamOptimizer (1.0 to 1.9 have it): "
        "pip install 'fastadam[sklearn]'"
    ) from error

__all__ = ["fast_adam"]

# What an optimizer is made of, but for the moments, under scikit-learn's names.
OPTIONS = ("learning_rate_init", "learning_rate", "beta_1", "beta_2", "epsilon", "t")
_lock = threading.Lock()
_blocks = 0  # how many are open


@contextlib.contextmanager
def fast_adam() -> Iterator[None]:
    """Have scikit-learn's multilayer perceptrons step with this library while the block lasts.

    Everything else is scikit-learn's: the estimators, their options, ``early_stopping``, ``warm_start`` and
    ``partial_fit``. What is replaced is the optimizer that ``solver="adam"`` makes when training begins.

    Yields
    ------
    None

    Notes
    -----
    - It holds for all threads of the process while any block is open; the last to end restores scikit-learn's
      own, also where it ends with an error. It does not hold in other processes: where ``n_jobs`` starts some,
      open the block in the function that runs there.
    - An estimator keeps its optimizer: ``partial_fit`` goes on with this one after the block, and with
      scikit-learn's where training began outside.
    - Pickles hold scikit-learn's own optimizer with the same state, so that they load without this library.
      Training that is continued from one goes on with that.
    - The formula is scikit-learn's, and adds epsilon where that does. Two factors come in another order, so the
      last bits of a step differ.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neural_network import MLPClassifier
    >>> import fastadam.sklearn
    >>> x, y = load_iris(return_X_y=True)
    >>> with fastadam.sklearn.fast_adam():
    ...     classifier = MLPClassifier(max_iter=500, random_state=0).fit(x, y)
    >>> classifier.score(x, y) > 0.95
    True
    """
    global _blocks
    with _lock:
        _blocks += 1
        theirs.AdamOptimizer = _Optimizer
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                theirs.AdamOptimizer = AdamOptimizer


class _Optimizer(AdamOptimizer):  # type: ignore[misc]
    """What takes the place of scikit-learn's ``AdamOptimizer``; its attributes are there under their names."""

    def __init__(
        self,
        params: Sequence[Array],
        learning_rate_init: float = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
    ) -> None:
        self.learning_rate_init = learning_rate_init
        self.learning_rate = float(learning_rate_init)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.t = 0
        self._bind(params, None)

    def _bind(self, params: Sequence[Array], moments: tuple[Sequence[Array], Sequence[Array]] | None) -> None:
        """Make the optimizer for these arrays."""
        self._list = params  # a fit hands in the same list for every batch
        self._params = list(params)
        self._adam = UncorrectedAdam(self._params, (self.beta_1, self.beta_2), self.epsilon, moments)

    def update_params(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        """Update the parameters in place."""
        if params is not self._list:
            if len(params) != len(self._params) or any(map(operator.is_not, params, self._params)):
                self._bind(params, (self.ms, self.vs))
            self._list = params
        t = self.t + 1
        rate = self.learning_rate_init * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        self._adam.step(grads, rate, (self.beta_1, self.beta_2), self.epsilon)
        self.t, self.learning_rate = t, rate

    @property
    def ms(self) -> list[Array]:
        """The first moments: live views."""
        return self._adam.moments("exp_avg")

    @property
    def vs(self) -> list[Array]:
        """The second moments: live views."""
        return self._adam.moments("exp_avg_sq")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as scikit-learn's own."""
        return AdamOptimizer, ([],), {name: getattr(self, name) for name in (*OPTIONS, "ms", "vs")}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Optimizer:
        """Copy as what it is, and over the copies of its parameters."""
        made = _Optimizer.__new__(_Optimizer)
        memo[id(self)] = made
        for name in OPTIONS:
            setattr(made, name, getattr(self, name))
        made._bind(copy.deepcopy(self._params, memo), (self.ms, self.vs))
        return made
