"""A loop around the optimizer, for objectives that give a loss and its gradients."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from fastadam.adam import Adam
from fastadam.memory.parameter import Parameter
from fastadam.memory.words import counted

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastadam.groups.forms import Options, Params
    from fastadam.memory.forms import Grads

Given = TypeVar("Given", bound="Params")
Batch = TypeVar("Batch")


class Minimized(NamedTuple):
    """What `minimize` returns.

    Attributes
    ----------
    params : object
        The parameters, as they were given (of an iterator, the list of what it gave).
    loss : float
        The last loss, or with `keep_best` the least; NaN without any.
    losses : ndarray of float64, shape (evaluations,)
        The loss at the parameters before each step.
    steps : int
        How many steps were taken.
    success : bool
        Whether all went well: False where a loss was not finite.
    message : str
        What ended the loop.
    optimizer : Adam
        The optimizer, with its state: to be saved, or to go on with.
    """

    params: Any
    loss: float
    losses: NDArray[np.float64]
    steps: int
    success: bool
    message: str
    optimizer: Adam

    def __repr__(self) -> str:
        return (
            f"Minimized(loss={self.loss!r}, steps={self.steps}, success={self.success}, message={self.message!r})"
        )


@overload
def minimize(
    fun: Callable[[Given], tuple[SupportsFloat, Grads]],
    params: Given,
    *,
    steps: int,
    batches: None = None,
    callback: Callable[[int, float], object] | None = None,
    keep_best: bool = False,
    **options: Unpack[Options],
) -> Minimized: ...
@overload
def minimize(
    fun: Callable[[Given, Batch], tuple[SupportsFloat, Grads]],
    params: Given,
    *,
    steps: int | None = None,
    batches: Iterable[Batch],
    callback: Callable[[int, float], object] | None = None,
    keep_best: bool = False,
    **options: Unpack[Options],
) -> Minimized: ...
def minimize(
    fun: Callable[..., tuple[SupportsFloat, Grads]],
    params: Any,
    *,
    steps: int | None = None,
    batches: Iterable[Any] | None = None,
    callback: Callable[[int, float], object] | None = None,
    keep_best: bool = False,
    **options: Unpack[Options],
) -> Minimized:
    """Minimize an objective that may be stochastic, over parameters in any form that `Adam` takes.

    Parameters
    ----------
    fun : callable
        ``fun(params)`` or, with `batches`, ``fun(params, batch)``; returns ``(loss, gradients)``, the gradients in
        any form that `Adam.step` takes, nested as the parameters are: None where they live with the parameters
        (``flat.grads`` of packed buffers, ``grad`` of `Parameter` objects).
    params : object
        Where to start: whatever `Adam` takes, and handed to `fun` as it is. It is updated in place; give a copy to
        keep it.
    steps : int, optional
        How many steps to take at most. Without it, as many as there are batches.
    batches : iterable, optional
        A batch for each step; the loop ends with them.
    callback : callable, optional
        Called after each step, as ``callback(step, loss)``, with the number of steps taken and the loss before the
        last of them. If it raises StopIteration, the loop ends.
    keep_best : bool, default False
        At the end, give the parameters the values with the least loss seen, not the last ones. With batches and
        noise that is the least loss of one evaluation.
    **options
        Those of `Adam`: `lr` (a number or a function of the step), `betas`, `eps`, `weight_decay`, `backend` and
        the others.

    Returns
    -------
    Minimized
        The parameters, the losses and what ended the loop.

    Raises
    ------
    TypeError, ValueError
        If an argument, the loss or a gradient is not what it must be. The step under way has not been taken then.

    Notes
    -----
    A loss that is NaN or infinite ends the loop, before a step with its gradients is taken.

    See Also
    --------
    fastadam.scipy.adam : a method for ``scipy.optimize.minimize``, with tolerances and bounds.

    Examples
    --------
    >>> import numpy as np, fastadam
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((1000, 3))
    >>> y = x @ [1.0, -2.0, 0.5] + 3.0
    >>> def fun(params, rows):
    ...     error = x[rows] @ params["w"] + params["b"] - y[rows]
    ...     gradients = {"w": error @ x[rows] / len(rows), "b": error.mean(keepdims=True)}
    ...     return error @ error / len(rows) / 2, gradients
    >>> batches = (rng.integers(1000, size=32) for _ in range(500))
    >>> found = fastadam.minimize(fun, {"w": np.zeros(3), "b": np.zeros(1)}, batches=batches, lr=0.05)
    >>> found.params["w"].round(2), found.params["b"].round(2), found.steps
    (array([ 1. , -2. ,  0.5]), array([3.]), 500)
    """
    if not callable(fun):
        raise TypeError(f"fun must be a function that returns (loss, gradients), got {fun!r}")
    if steps is None and batches is None:
        raise ValueError("steps or batches must be given, or the loop would never end; try steps=1000")
    most = math.inf if steps is None else _whole(steps)
    inputs: Iterator[tuple[Any, ...]] = iter(())
    if batches is None:
        inputs = itertools.repeat(())
    elif isinstance(batches, Iterable):
        inputs = ((batch,) for batch in batches)
    else:
        raise TypeError(f"batches must be an iterable with a batch for each step, got {batches!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {callback!r}")
    if not isinstance(keep_best, bool | np.bool_):
        raise TypeError(f"keep_best must be True or False, got {keep_best!r}")
    if isinstance(params, Iterator):
        params = list(params)
    optimizer = Adam(params, **options)
    best = _Best(optimizer) if keep_best else None
    losses: list[float] = []
    taken = 0
    success = True
    while True:
        if taken >= most:
            message = "1 step was taken" if taken == 1 else f"all {taken} steps were taken"
            break
        try:
            given = next(inputs)
        except StopIteration:
            message = f"the batches ended after {counted(taken, 'step')}"
            break
        loss, gradients = _evaluated(fun(params, *given))
        losses.append(loss)
        if not math.isfinite(loss):
            success = False
            message = f"the loss was {loss} before step {taken + 1}, which was not taken"
            break
        if best is not None:
            best.consider(loss)
        optimizer.step(gradients)
        taken += 1
        if callback is not None:
            try:
                callback(taken, loss)
            except StopIteration:
                message = f"the callback ended the loop after {counted(taken, 'step')}"
                break
    loss = losses[-1] if losses else math.nan
    if best is not None:
        loss = best.restore()
    return Minimized(params, loss, np.array(losses), taken, success, message, optimizer)


class _Best:
    """The values of the parameters with the least loss."""

    def __init__(self, optimizer: Adam) -> None:
        self._arrays = [
            one.data if isinstance(one, Parameter) else one
            for group in optimizer.param_groups
            for one in group["params"]
        ]
        self._values: list[Any] = []
        self._loss = math.nan

    def consider(self, loss: float) -> None:
        """Take the parameters' values over if no loss was less."""
        if not self._values:
            self._values = [array.copy() for array in self._arrays]
        elif loss < self._loss:
            for value, array in zip(self._values, self._arrays, strict=True):
                value[...] = array
        else:
            return
        self._loss = loss

    def restore(self) -> float:
        """Write the best values into the parameters, and return their loss."""
        if self._values:
            for value, array in zip(self._values, self._arrays, strict=True):
                array[...] = value
        return self._loss


def _evaluated(found: Any) -> tuple[float, Any]:
    """Return the loss as a number, and the gradients."""
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise TypeError(f"fun must return (loss, gradients), got {found!r:.100}")
    loss, gradients = found
    if type(loss) is not float:
        try:
            loss = float(loss if getattr(loss, "ndim", 0) == 0 else np.asarray(loss).item())
        except (TypeError, ValueError) as error:
            raise TypeError(f"the loss that fun returns must be a number, got {loss!r:.100}") from error
    return loss, gradients


def _whole(steps: Any) -> int:
    if isinstance(steps, bool) or not hasattr(steps, "__index__"):
        raise TypeError(f"steps must be a whole number, got {steps!r} of type {type(steps).__name__}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps!r}")
    return operator.index(steps)
