"""Adam as a method of ``scipy.optimize.minimize``.

For objectives that are noisy, that come from batches, or whose curvature misleads quasi-Newton methods. Where an
objective is smooth and computed exactly, SciPy's L-BFGS-B takes far fewer evaluations.
"""

from __future__ import annotations

import inspect
import math
import numbers
import operator
import warnings
from collections.abc import Callable, Iterable
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning

from fastadam.adam import Adam
from fastadam.memory.real_numbers import real_numbers
from fastadam.memory.remedies import COPIED, READ, reshaped
from fastadam.step.backend import BackendName
from fastadam.step.hyperparameters import DEFAULTS, LearningRate, Real

Vector = NDArray[Any]

__all__ = ["adam"]

GTOL, FTOL, PATIENCE, MAXITER = 1e-5, 1e-9, 1000, 20_000
# What ended a run, under SciPy's numbers and in its words where it has some.
CONVERGED, OUT_OF_STEPS, NOT_FINITE, STOPPED = 0, 1, 3, 99


def adam(
    fun: Callable[..., SupportsFloat | tuple[SupportsFloat, ArrayLike]],
    x0: ArrayLike,
    args: Any = (),
    jac: Callable[..., ArrayLike] | bool | None = None,
    hess: None = None,
    hessp: None = None,
    bounds: Bounds | Iterable[tuple[float | None, float | None]] | NDArray[Any] | None = None,
    constraints: tuple[()] | None = (),
    callback: Callable[..., object] | None = None,
    *,
    lr: LearningRate = 1e-2,
    betas: tuple[Real, Real] = DEFAULTS.betas,
    eps: Real = DEFAULTS.eps,
    amsgrad: bool = False,
    max_grad_norm: Real | None = None,
    maxiter: int | None = MAXITER,
    gtol: float | None = None,
    ftol: float | None = None,
    patience: int | None = PATIENCE,
    tol: float | None = None,
    keep_best: bool = False,
    disp: bool = False,
    backend: BackendName = "auto",
    threads: int | None = None,
    **unknown_options: object,
) -> OptimizeResult:
    r"""Minimize a function of several variables with Adam.

    Give it to ``scipy.optimize.minimize`` as `method`; what is behind `callback` goes into ``options``.

    Parameters
    ----------
    fun : callable
        The objective, ``fun(x, *args) -> float``; with ``jac=True`` it returns ``(value, gradient)``.
    x0 : array_like, shape (n,)
        Where to start; not changed. The work is done in float32 if it is that, else in float64. It is moved into
        the bounds, as by L-BFGS-B.
    args : tuple, optional
        Further arguments of `fun` and `jac`.
    jac : callable or True
        The gradient, ``jac(x, *args) -> array_like, shape (n,)``.
    hess, hessp, constraints
        Not supported.
    bounds : scipy.optimize.Bounds or sequence of pairs, optional
        Lower and upper bounds; None or infinity where there is none. Each step is followed by a projection, so
        that `fun` is never called outside.
    callback : callable, optional
        Called after each iteration, as ``callback(intermediate_result=r)`` where its only parameter has that
        name, with ``r.x``, ``r.fun``, ``r.jac`` and ``r.nit``; else as ``callback(xk)``. If it raises
        StopIteration, the run ends.
    lr : float or callable, default 0.01
        Learning rate: about how far a variable moves in one iteration; or a function of the 1-based iteration,
        such as those of `fastadam.schedules`. A constant one ends in a swing of about that size around the
        minimum, one that decays comes to rest there.
    betas, eps, amsgrad, max_grad_norm, backend, threads
        As in `fastadam.Adam`.
    maxiter : int, default 20000
        The most iterations; None stands for the default.
    gtol : float, default 1e-5
        Success: no component of the gradient, projected onto the bounds, is greater in magnitude.
    ftol : float, default 1e-9
        See `patience`.
    patience : int or None, default 1000
        Success: in that many iterations the least value so far has not gone down by more than
        ``ftol * max(1, |value|)``. None never ends a run so. (The last point can be in the middle of a swing
        then: see `lr` and `keep_best`.)
    tol : float, optional
        For `gtol` and `ftol` where they are not given.
    keep_best : bool, default False
        Return the point with the least value seen, not the last one. (Of a noisy objective that is the one with
        the luckiest noise.)
    disp : bool, default False
        Print a summary.

    Returns
    -------
    scipy.optimize.OptimizeResult
        With `x`, `fun`, `jac`, `nit`, `nfev`, `njev`, `success`, `message` and `status`: 0 for success, 1 where
        `maxiter` is reached, 3 where the value is NaN or the gradient is not finite (`x` is the point where that
        is so, unless `keep_best`), and 99 where `callback` has ended the run.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it must be, or not supported; the message says what to do.

    Warns
    -----
    scipy.optimize.OptimizeWarning
        Of unknown options.

    See Also
    --------
    fastadam.minimize : for parameters in several arrays, and batches.

    Notes
    -----
    Each iteration evaluates `fun` and `jac` once, at its end, and hands out copies, so that they may keep and
    overwrite what they get.

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> import fastadam.scipy
    >>> found = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=fastadam.scipy.adam, options={"lr": 0.02})
    >>> found.success, found.x.round(3)
    (True, array([1., 1.]))
    """
    if unknown_options:
        names = ", ".join(map(str, unknown_options))
        warnings.warn(f"Unknown solver options: {names}", OptimizeWarning, stacklevel=3)
    _refuse(jac, hess, hessp, constraints)
    gtol = _tolerance("gtol", gtol, tol, GTOL)
    ftol = _tolerance("ftol", ftol, tol, FTOL)
    maxiter = MAXITER if maxiter is None else _iterations("maxiter", maxiter, 0)
    patience = None if patience is None else _iterations("patience", patience, 1)
    if not isinstance(keep_best, bool | np.bool_):
        raise TypeError(f"keep_best must be True or False, got {keep_best!r}")
    x = _start(x0)
    box = None if bounds is None else _Box(bounds, x)
    objective = _Objective(fun, jac, args, x)
    optimizer = Adam(
        x, lr, betas, eps, amsgrad=amsgrad, max_grad_norm=max_grad_norm, backend=backend, threads=threads
    )
    tell = _teller(callback)

    value, gradient = objective(x)
    best = least = value
    best_x, best_gradient = (x.copy(), gradient.copy()) if keep_best else (x, gradient)
    slope = _slope(gradient if box is None else box.projected(x, gradient), gtol)
    nit, improved_at = 0, 0
    while True:
        if not slope < math.inf or math.isnan(value):
            status, message = NOT_FINITE, "NaN or infinity in the objective or its gradient."
            break
        if slope <= gtol:
            status, message = CONVERGED, "Optimization terminated successfully: the gradient is at most gtol."
            break
        if patience is not None and nit - improved_at >= patience:
            status = CONVERGED
            message = "Optimization terminated successfully: no improvement by more than ftol within patience."
            break
        if nit >= maxiter:
            status, message = OUT_OF_STEPS, "Maximum number of iterations has been exceeded."
            break
        optimizer.step(gradient)
        if box is not None:
            box.project(x)
        value, gradient = objective(x)
        slope = _slope(gradient if box is None else box.projected(x, gradient), gtol)
        nit += 1
        if value < least and (math.isinf(least) or least - value > ftol * max(1.0, abs(least))):
            least, improved_at = value, nit
        if keep_best and value < best and slope < math.inf:
            best = value
            best_x[:], best_gradient[:] = x, gradient
        try:
            tell(x, value, gradient, nit)
        except StopIteration:
            status, message = STOPPED, "`callback` raised `StopIteration`."
            break
    if not keep_best:
        best, best_x, best_gradient = value, x, np.array(gradient)
    found = OptimizeResult(
        x=best_x,
        fun=best,
        jac=best_gradient,
        nit=nit,
        nfev=objective.calls,
        njev=objective.calls,
        status=status,
        success=status == CONVERGED,
        message=message,
    )
    if disp:
        _display(found)
    return found


class _Objective:
    """The value and the gradient at a point, checked."""

    def __init__(self, fun: Callable[..., Any], jac: Any, args: Any, x: Vector) -> None:
        self._fun, self._jac = fun, None if jac is True else jac
        self._args = args if isinstance(args, tuple) else (args,)
        self._shape, self._dtype = x.shape, x.dtype
        self.calls = 0

    def __call__(self, x: Vector) -> tuple[float, Vector]:
        self.calls += 1
        if self._jac is None:
            found = self._fun(x.copy(), *self._args)
            if not isinstance(found, tuple | list) or len(found) != 2:
                raise TypeError(f"with jac=True, fun must return (value, gradient), got {found!r:.100}")
            value, gradient = found
        else:
            value = self._fun(x.copy(), *self._args)
            gradient = self._jac(x.copy(), *self._args)
        if type(value) is not float:
            value = _scalar(value)
        if type(gradient) is not np.ndarray or gradient.shape != self._shape or gradient.dtype != self._dtype:
            gradient = self._converted(gradient)
        return value, gradient

    def _converted(self, given: Any) -> Vector:
        gradient = real_numbers(given, "the gradient", READ)
        if gradient.shape != self._shape:
            code = reshaped(gradient.shape, self._shape)
            raise ValueError(
                f"the gradient must have the shape {self._shape} of x, got {np.shape(given)}"
                f"{code and f'; return np.asarray(grad){code}'}"
            )
        return gradient.astype(self._dtype)


class _Box:
    """Bounds."""

    def __init__(self, bounds: Any, x: Vector) -> None:
        if isinstance(bounds, Bounds):
            given: tuple[Any, ...] = (bounds.lb, bounds.ub)
        else:
            try:
                pairs = [
                    (-math.inf if lo is None else float(lo), math.inf if up is None else float(up))
                    for lo, up in bounds
                ]
            except (TypeError, ValueError) as error:
                raise TypeError(
                    f"bounds must be a scipy.optimize.Bounds or a sequence of (lower, upper), got {bounds!r:.100}"
                ) from error
            if len(pairs) != len(x):
                raise ValueError(f"bounds must have a pair for each of the {len(x)} variables, got {len(pairs)}")
            given = tuple(np.array(pairs, float).reshape(-1, 2).T)
        try:
            lower, upper = (np.broadcast_to(np.asarray(side, float), x.shape) for side in given)
        except ValueError as error:
            raise ValueError(f"bounds do not fit the {len(x)} variables: {error}") from error
        if not np.all(lower <= upper):
            i = int(np.argmin(lower <= upper))
            raise ValueError(f"bounds[{i}] must be a lower and an upper bound, got {lower[i]} and {upper[i]}")
        if np.any(lower == np.inf) or np.any(upper == -np.inf):
            i = int(np.argmax((lower == np.inf) | (upper == -np.inf)))
            raise ValueError(f"bounds[{i}] holds no finite number, got {lower[i]} and {upper[i]}")
        self._lower, self._upper = lower.astype(x.dtype), upper.astype(x.dtype)
        # Where a bound is no number of that dtype, the next one inside takes its place.
        np.nextafter(self._lower, np.inf, out=self._lower, where=self._lower < lower, dtype=x.dtype)
        np.nextafter(self._upper, -np.inf, out=self._upper, where=self._upper > upper, dtype=x.dtype)
        if not np.all(self._lower <= self._upper):
            i = int(np.argmin(self._lower <= self._upper))
            raise ValueError(
                f"bounds[{i}] from {lower[i]} to {upper[i]} holds no {x.dtype} number; give x0 as float64"
            )
        self.project(x)

    def project(self, x: Vector) -> None:
        """Move a point into the bounds, in place."""
        np.clip(x, self._lower, self._upper, out=x)

    def projected(self, x: Vector, gradient: Vector) -> Vector:
        """Return the gradient without what points out of the bounds, as L-BFGS-B measures it."""
        return np.clip(gradient, x - self._upper, x - self._lower)


def _slope(gradient: Vector, gtol: float) -> float:
    """Return the greatest magnitude, and NaN where there is one; or a number between `gtol` and it."""
    if not gradient.size:
        return 0.0
    # The root of the mean square is no greater, and takes a quarter of the time.
    square = float(gradient.dot(gradient)) / gradient.size
    if 1.0001 * gtol**2 < square < math.inf:
        return math.sqrt(square)
    return max(float(gradient.max()), -float(gradient.min()))


def _start(x0: Any) -> Vector:
    """Return a copy of the start, in the dtype of the work."""
    given = real_numbers(x0, "x0", COPIED)
    if given.ndim != 1:
        raise ValueError(f"'x0' must only have one dimension, got the shape {given.shape}; try np.ravel(x0)")
    return np.array(given, np.float32 if given.dtype == np.float32 else np.float64)


def _refuse(jac: Any, hess: Any, hessp: Any, constraints: Any) -> None:
    """Refuse what Adam needs and has not got, or has got and cannot use."""
    if not callable(jac) and jac is not True:
        raise ValueError(
            f"jac must be the gradient, as a function of x, or True where fun returns (value, gradient); got "
            f"{jac!r}. With few variables and no noise, differences do: "
            f"jac=lambda x: scipy.optimize.approx_fprime(x, fun)"
        )
    for name, given in (("hess", hess), ("hessp", hessp)):
        if given is not None:
            raise ValueError(f"{name} is not used by Adam; leave it out, or use method='trust-constr'")
    if not (constraints is None or (isinstance(constraints, list | tuple) and not constraints)):
        raise ValueError(
            "constraints are not supported by Adam, only bounds are; use method='trust-constr', or add a penalty "
            "to fun"
        )


def _teller(callback: Callable[..., Any] | None) -> Callable[[Vector, float, Vector, int], object]:
    """Return a function that calls `callback` in the style that its signature asks for."""
    if callback is None:
        return lambda x, value, gradient, nit: None
    if not callable(callback):
        raise TypeError(f"callback must be callable or None, got {callback!r}")
    try:
        names = set(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # of functions written in C
        names = set()
    if names == {"intermediate_result"}:
        return lambda x, value, gradient, nit: callback(
            intermediate_result=OptimizeResult(x=x.copy(), fun=value, jac=gradient.copy(), nit=nit)
        )
    return lambda x, value, gradient, nit: callback(x.copy())


def _scalar(value: Any) -> float:
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The user-provided objective function must return a scalar value, got {value!r:.100}"
        ) from error


def _tolerance(name: str, given: Any, tol: Any, default: float) -> float:
    name, value = (name, given) if given is not None else ("tol", tol)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) >= 0:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)


def _iterations(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return operator.index(value)


def _display(found: OptimizeResult) -> None:
    if found.success:
        print(found.message)
    else:
        warnings.warn(found.message, OptimizeWarning, stacklevel=4)
    print(f"         Current function value: {found.fun:f}")
    print(f"         Iterations: {found.nit:d}")
    print(f"         Function evaluations: {found.nfev:d}")
    print(f"         Gradient evaluations: {found.njev:d}")
