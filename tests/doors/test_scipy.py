"""Adam as a method of scipy.optimize.minimize."""

from __future__ import annotations

import importlib
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.schedules import Cosine

optimize = pytest.importorskip("scipy.optimize")
adam = importlib.import_module("fastadam.scipy").adam
rosen, rosen_der = optimize.rosen, optimize.rosen_der


def beale(x: Any) -> tuple[float, Any]:
    a, b = x
    terms = np.array([1.5 - a + a * b, 2.25 - a + a * b**2, 2.625 - a + a * b**3])
    slopes = np.array([[b - 1, a], [b**2 - 1, 2 * a * b], [b**3 - 1, 3 * a * b**2]])
    return float(terms @ terms), 2 * terms @ slopes


def himmelblau(x: Any) -> tuple[float, Any]:
    a, b = x
    one, two = a**2 + b - 11, a + b**2 - 7
    return one**2 + two**2, np.array([4 * a * one + 2 * two, 2 * one + 4 * b * two])


def bowl(x: Any) -> tuple[float, Any]:
    return float(x @ x) / 2, x


@pytest.mark.parametrize("n", [2, 10, 100])
def test_rosenbrock(n: int) -> None:
    start = np.tile([-1.2, 1.0], n // 2)
    given = start.copy()
    found = optimize.minimize(rosen, start, jac=rosen_der, method=adam, options={"lr": 0.02})
    assert found.success, found.message
    assert found.status == 0
    assert np.abs(rosen_der(found.x)).max() <= 1e-5
    assert np.abs(found.x - 1).max() < 1e-4
    assert found.fun == rosen(found.x)
    assert found.jac.tobytes() == rosen_der(found.x).tobytes()
    assert found.nfev == found.njev == found.nit + 1
    assert start.tobytes() == given.tobytes()


def test_rosenbrock_in_10_000_dimensions() -> None:
    start = np.full(10_000, 0.7)
    found = optimize.minimize(
        rosen, start, jac=rosen_der, method=adam, options={"lr": Cosine(0.02, 4000), "maxiter": 4000}
    )
    assert found.success, found.message
    assert np.abs(found.x - 1).max() < 1e-4


@pytest.mark.parametrize(
    ("fun", "start", "minima"),
    [
        (beale, [1.0, 1.0], [(3.0, 0.5)]),
        (
            himmelblau,
            [0.0, 0.0],
            [(3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126)],
        ),
    ],
    ids=["beale", "himmelblau"],
)
def test_known_minima(fun: Callable[[Any], Any], start: list[float], minima: list[tuple[float, float]]) -> None:
    found = optimize.minimize(fun, start, jac=True, method=adam)
    assert found.success, found.message
    assert min(np.abs(found.x - minimum).max() for minimum in minima) < 1e-4
    assert found.fun < 1e-8


def test_the_steps_are_those_of_adam() -> None:
    x = np.array([-1.2, 1.0])
    options = {"lr": Cosine(0.1, 40), "betas": (0.8, 0.99), "eps": 1e-3, "amsgrad": True, "max_grad_norm": 0.5}
    optimizer = fastadam.Adam(x, **options)  # type: ignore[arg-type]
    for _ in range(25):
        optimizer.step(rosen_der(x))
    found = optimize.minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=adam, options={**options, "maxiter": 25})
    assert found.x.tobytes() == x.tobytes()
    assert (found.status, found.success, found.nit) == (1, False, 25)
    assert found.message == "Maximum number of iterations has been exceeded."


@pytest.mark.parametrize("how", ["separate", "together", "directly"])
def test_the_gradient_can_come_in_each_way(how: str) -> None:
    if how == "separate":
        found = optimize.minimize(lambda x: bowl(x)[0], [3.0], jac=lambda x: bowl(x)[1], method=adam)
    elif how == "together":
        found = optimize.minimize(bowl, [3.0], jac=True, method=adam)
    else:
        found = adam(bowl, [3.0], jac=True)
    assert found.success
    assert abs(found.x[0]) < 1e-4


def test_arguments_reach_the_objective_and_its_gradient() -> None:
    found = optimize.minimize(
        lambda x, a, b: a * (x[0] - b) ** 2,
        0.0,
        args=(3.0, 0.5),
        jac=lambda x, a, b: [2 * a * (x[0] - b)],
        method=adam,
    )
    assert found.x == pytest.approx([0.5], abs=1e-4)
    found = optimize.minimize(
        lambda x, b: ((x[0] - b) ** 2, [2 * (x[0] - b)]), 0.0, args=0.5, jac=True, method=adam
    )
    assert found.x == pytest.approx([0.5], abs=1e-4)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.float16, np.float64),
        (np.longdouble, np.float64),
        (int, np.float64),
    ],
)
def test_dtypes(given: Any, used: Any) -> None:
    seen = set()

    def fun(x: Any) -> tuple[Any, Any]:
        seen.add(x.dtype)
        return (x**2).sum(), 2 * x.astype(np.float64)

    found = optimize.minimize(fun, np.array([1, 2], given), jac=True, method=adam, options={"maxiter": 3})
    assert seen == {np.dtype(used)}
    assert found.x.dtype == found.jac.dtype == used
    assert type(found.fun) is float


@pytest.mark.parametrize(
    "bounds",
    [
        [(0.5, 2.0), (None, None)],
        [(0.5, None), (-math.inf, math.inf)],
        optimize.Bounds([0.5, -np.inf], [2.0, np.inf]),
        optimize.Bounds([0.5, -np.inf]),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds(bounds: Any, dtype: Any) -> None:
    def fun(x: Any) -> tuple[float, Any]:
        assert 0.5 <= x[0] <= 2.0
        return bowl(x)

    start = np.array([7.0 if bounds is None else 1.5, 1.0], dtype)
    found = optimize.minimize(fun, start, jac=True, bounds=bounds, method=adam)
    assert found.success, found.message
    assert found.x[0] == 0.5
    assert abs(found.x[1]) < 1e-4
    assert found.jac[0] == 0.5


def test_a_start_outside_is_moved_into_the_bounds_and_one_bound_for_all_will_do() -> None:
    first = []
    optimize.minimize(
        lambda x: (first.append(x), bowl(x))[1],
        [9.0, -9.0],
        jac=True,
        bounds=optimize.Bounds(-1, 2),
        method=adam,
        options={"maxiter": 0},
    )
    assert first[0].tolist() == [2.0, -1.0]


def test_bounds_that_float32_does_not_know_are_kept_all_the_same() -> None:
    seen = []
    optimize.minimize(
        lambda x: (seen.append(x), bowl(x))[1],
        np.ones(2, np.float32),
        jac=True,
        bounds=[(0.1, 0.7), (-0.7, 0.9)],
        method=adam,
        options={"maxiter": 400},
    )
    inside = [0.1 <= float(x[0]) <= 0.7 and -0.7 <= float(x[1]) <= 0.9 for x in seen]
    assert all(inside)
    assert seen[0].dtype == np.float32
    with pytest.raises(
        ValueError, match=r"bounds\[0\] from 0.1 to 0.1 holds no float32 number; give x0 as float64"
    ):
        optimize.minimize(bowl, np.ones(1, np.float32), jac=True, bounds=[(0.1, 0.1)], method=adam)
    found = optimize.minimize(bowl, np.ones(1), jac=True, bounds=[(0.1, 0.1)], method=adam)
    assert found.x[0] == 0.1
    assert found.success


def test_both_styles_of_callbacks() -> None:
    points: list[Any] = []
    results: list[Any] = []
    options = {"maxiter": 5}
    optimize.minimize(rosen, [2.0, 2.0], jac=rosen_der, method=adam, callback=points.append, options=options)

    def told(*, intermediate_result: Any) -> None:
        results.append(intermediate_result)

    found = optimize.minimize(rosen, [2.0, 2.0], jac=rosen_der, method=adam, callback=told, options=options)
    assert len(points) == len(results) == 5
    for nit, (x, result) in enumerate(zip(points, results, strict=True), 1):
        assert x.tobytes() == result.x.tobytes()
        assert result.fun == rosen(x)
        assert result.jac.tobytes() == rosen_der(x).tobytes()
        assert result.nit == nit
    assert found.x.tobytes() == points[-1].tobytes()
    assert len({x.ctypes.data for x in points}) == 5


def test_stop_iteration_ends_the_run() -> None:
    def enough(x: Any) -> None:
        if x[0] < 1.95:
            raise StopIteration

    found = optimize.minimize(rosen, [2.0, 2.0], jac=rosen_der, method=adam, callback=enough)
    reference = optimize.minimize(rosen, [2.0, 2.0], jac=rosen_der, method="L-BFGS-B", callback=enough)
    assert found.x[0] < 1.95
    assert (found.status, found.success, found.message) == (reference.status, reference.success, reference.message)


def test_stop_iteration_of_the_objective_is_no_such_thing() -> None:
    def broken(x: Any) -> float:
        raise StopIteration

    with pytest.raises(StopIteration):
        adam(broken, [1.0], jac=rosen_der)


def test_gtol_ends_at_once_where_the_gradient_is_small() -> None:
    found = optimize.minimize(bowl, [1e-3, 0.0], jac=True, method=adam, options={"gtol": 1e-3})
    assert (found.nit, found.nfev, found.success) == (0, 1, True)
    assert "gtol" in found.message


def test_patience_ends_a_run_without_progress() -> None:
    rng = np.random.default_rng(0)

    def noisy(x: Any) -> tuple[float, Any]:
        return float(x @ x) + rng.standard_normal(), 2 * x + rng.standard_normal(3)

    found = optimize.minimize(noisy, np.ones(3), jac=True, method=adam, options={"patience": 50, "ftol": 0.1})
    assert found.success
    assert 50 <= found.nit < 20_000
    assert "patience" in found.message
    never = optimize.minimize(noisy, np.ones(3), jac=True, method=adam, options={"patience": None, "maxiter": 300})
    assert never.nit == 300
    flat = optimize.minimize(lambda x: (1.0, [1.0]), 0.0, jac=True, method=adam, options={"patience": 7})
    assert flat.nit == 7


def test_tol_stands_for_both_tolerances() -> None:
    both = optimize.minimize(bowl, [1.0], jac=True, method=adam, tol=0.1)
    by_name = optimize.minimize(bowl, [1.0], jac=True, method=adam, options={"gtol": 0.1, "ftol": 0.1})
    assert both.nit == by_name.nit
    assert both.x.tobytes() == by_name.x.tobytes()
    named = optimize.minimize(bowl, [1.0], jac=True, method=adam, tol=0.1, options={"gtol": 0.01})
    assert named.nit > both.nit


def test_the_best_point_is_kept_on_request() -> None:
    rng = np.random.default_rng(0)
    seen: list[tuple[float, Any, Any]] = []

    def noisy(x: Any) -> tuple[float, Any]:
        value, gradient = float(x @ x) + rng.standard_normal(), 2 * x + rng.standard_normal(3)
        seen.append((value, x.copy(), gradient))
        return value, gradient

    found = optimize.minimize(
        noisy, np.ones(3), jac=True, method=adam, options={"keep_best": True, "maxiter": 200}
    )
    value, x, gradient = min(seen, key=lambda entry: entry[0])
    assert found.fun == value
    assert found.x.tobytes() == x.tobytes()
    assert found.jac.tobytes() == gradient.tobytes()
    seen.clear()
    found = optimize.minimize(noisy, np.ones(3), jac=True, method=adam, options={"maxiter": 200})
    assert found.fun == seen[-1][0]
    assert found.x.tobytes() == seen[-1][1].tobytes()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_what_is_not_finite_ends_the_run(bad: float, where: str) -> None:
    def fun(x: Any) -> tuple[float, Any]:
        broken = x[0] < 0.9
        return bad if broken and where == "value" else x[0], [bad if broken and where == "gradient" else 1.0]

    options = {"keep_best": True, "maxiter": 100}
    found = optimize.minimize(fun, [1.0], jac=True, method=adam, options=options)
    if (bad, where) == (math.inf, "value"):  # a wall: the way back may lie ahead
        assert found.status == 1
        return
    assert (found.status, found.success) == (3, False)
    assert found.message == "NaN or infinity in the objective or its gradient."
    assert 0.9 <= found.x[0] < 0.92
    last = optimize.minimize(fun, [1.0], jac=True, method=adam)
    assert last.x[0] < 0.9


def test_the_objective_may_overwrite_and_keep_what_it_gets() -> None:
    kept = []

    def rude(x: Any) -> float:
        value = rosen(x)
        kept.append(x)
        x[:] = 99
        return float(value)

    def rude_der(x: Any) -> Any:
        gradient = rosen_der(x)
        x[:] = 99
        return gradient

    rough = optimize.minimize(rude, [2.0, 2.0], jac=rude_der, method=adam, options={"maxiter": 20})
    calm = optimize.minimize(rosen, [2.0, 2.0], jac=rosen_der, method=adam, options={"maxiter": 20})
    assert rough.x.tobytes() == calm.x.tobytes()
    assert len({x.ctypes.data for x in kept}) == 21


def test_a_gradient_in_one_buffer_for_all_calls() -> None:
    buffer = np.zeros(2)

    def reusing(x: Any) -> Any:
        buffer[:] = rosen_der(x)
        return buffer

    one = optimize.minimize(
        rosen, [2.0, 2.0], jac=reusing, method=adam, options={"maxiter": 20, "keep_best": True}
    )
    two = optimize.minimize(
        rosen, [2.0, 2.0], jac=rosen_der, method=adam, options={"maxiter": 20, "keep_best": True}
    )
    assert one.x.tobytes() == two.x.tobytes()
    assert one.jac.tobytes() == two.jac.tobytes()
    buffer[:] = 7
    assert one.jac.tobytes() == two.jac.tobytes()


def test_unknown_options_are_warned_of_as_by_scipys_own_methods() -> None:
    for method in (adam, "BFGS"):
        with pytest.warns(optimize.OptimizeWarning, match="Unknown solver options: momentum, nesterov") as caught:
            optimize.minimize(bowl, [0.0], jac=True, method=method, options={"momentum": 1, "nesterov": 2})
        assert caught[0].filename == __file__


def test_display(capsys: pytest.CaptureFixture[str]) -> None:
    optimize.minimize(bowl, [1.0], jac=True, method=adam, options={"disp": True})
    printed = capsys.readouterr().out
    assert re.match(r"Optimization terminated successfully: .*\n +Current function value: 0.000000\n", printed)
    assert re.search(r"Iterations: \d+\n +Function evaluations: \d+\n +Gradient evaluations: \d+\n$", printed)
    with pytest.warns(optimize.OptimizeWarning, match="Maximum number of iterations") as caught:
        optimize.minimize(bowl, [1.0], jac=True, method=adam, options={"disp": True, "maxiter": 2})
    assert caught[0].filename == __file__
    assert "Iterations: 2" in capsys.readouterr().out


BAD: list[tuple[dict[str, Any], str]] = [
    ({"jac": None}, r"jac must be the gradient.* got None.*jac=lambda x: scipy.optimize.approx_fprime\(x, fun\)"),
    ({"jac": "2-point"}, "jac must be the gradient"),
    ({"hess": lambda x: np.eye(2)}, "hess is not used by Adam; leave it out"),
    ({"hessp": lambda x, p: p}, "hessp is not used by Adam"),
    ({"constraints": {"type": "eq", "fun": lambda x: x[0]}}, "constraints are not supported by Adam, only bounds"),
    ({"constraints": [optimize.LinearConstraint(np.eye(2), 0, 1)]}, "constraints are not supported"),
    ({"constraints": optimize.LinearConstraint(np.eye(2), 0, 1)}, "constraints are not supported"),
    ({"bounds": [(0, 1)]}, "bounds must have a pair for each of the 2 variables, got 1"),
    ({"bounds": optimize.Bounds([0, 0, 0])}, "bounds do not fit the 2 variables: "),
    ({"bounds": [(0, 1), (2, 1)]}, r"bounds\[1\] must be a lower and an upper bound, got 2.0 and 1.0"),
    ({"bounds": [(0, 1), (math.nan, 1)]}, r"bounds\[1\] must be a lower and an upper bound, got nan and 1.0"),
    ({"bounds": [(0, 1), (math.inf, math.inf)]}, r"bounds\[1\] holds no finite number, got inf and inf"),
    ({"bounds": optimize.Bounds(-np.inf, -np.inf)}, r"bounds\[0\] holds no finite number, got -inf and -inf"),
    ({"bounds": [("low", 1), (0, 1)]}, "bounds must be a scipy.optimize.Bounds or a sequence of"),
    ({"bounds": [1, 2]}, "bounds must be a scipy.optimize.Bounds or a sequence of"),
    ({"bounds": 3}, "bounds must be a scipy.optimize.Bounds or a sequence of"),
    ({"options": {"lr": -1.0}}, "lr must be finite and at least 0, got -1.0"),
    ({"options": {"maxiter": 2.5}}, "maxiter must be a whole number of at least 0, got 2.5"),
    ({"options": {"maxiter": -1}}, "maxiter must be a whole number"),
    ({"options": {"patience": True}}, "patience must be a whole number"),
    ({"options": {"patience": 0}}, "patience must be a whole number of at least 1, got 0"),
    ({"options": {"keep_best": "no"}}, "keep_best must be True or False, got 'no'"),
    ({"callback": 3}, "callback must be callable or None, got 3"),
    ({"options": {"gtol": -1.0}}, "gtol must be a number of at least 0, got -1.0"),
    ({"options": {"ftol": math.nan}}, "ftol must be a number of at least 0, got nan"),
    ({"tol": "small"}, "tol must be a number of at least 0, got 'small'"),
    ({"x0": np.ones(2, complex)}, r"x0 must hold real numbers, got dtype complex128; minimize over real and"),
    ({"x0": [1.0, None]}, r"x0 must hold real numbers, got dtype object"),
    ({"x0": "start"}, r"x0 must hold real numbers, got dtype <U5"),
    ({"fun": lambda x: x, "jac": rosen_der}, "must return a scalar value, got array"),
    ({"fun": lambda x: 1j, "jac": rosen_der}, "must return a scalar value, got 1j"),
    ({"jac": lambda x: [1.0]}, r"the gradient must have the shape \(2,\) of x, got \(1,\)"),
    ({"jac": lambda x: [1j, 0]}, "the gradient must hold real numbers, got dtype complex128"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"fun": rosen, "x0": np.ones(2) * 2, "jac": rosen_der, "method": adam, **change}
    with pytest.raises((TypeError, ValueError), match=message):
        optimize.minimize(**arguments)


def test_nothing_is_evaluated_before_arguments_are_checked() -> None:
    called: list[Any] = []
    with pytest.raises(TypeError, match="callback must be callable or None, got 'each'"):
        optimize.minimize(lambda x: called.append(x), [1.0], jac=True, method=adam, callback="each")
    assert called == []


@pytest.mark.parametrize("returned", [1.0, None, (1.0,), (1.0, [1.0], 0), np.ones(3)])
def test_an_objective_without_its_gradient_is_refused(returned: Any) -> None:
    with pytest.raises(TypeError, match=r"with jac=True, fun must return \(value, gradient\), got"):
        adam(lambda x: returned, [1.0], jac=True)


def test_the_limit_of_iterations_can_be_left_to_the_method() -> None:
    with_none, without = (
        optimize.minimize(bowl, [1.0], jac=True, method=adam, options=options)
        for options in ({"maxiter": None}, {})
    )
    assert with_none.nit == without.nit


def test_a_matrix_to_start_from_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'x0' must only have one dimension, got the shape \(1, 2\); try np.ravel\(x0\)"
    ):
        adam(rosen, np.ones((1, 2)), jac=rosen_der)


def test_the_remedy_for_a_missing_gradient_works() -> None:
    scipy = pytest.importorskip("scipy")
    with pytest.raises(ValueError, match="jac must be the gradient") as refused:
        optimize.minimize(rosen, [1.2, 1.2], method=adam)
    remedy = re.search(r"jac=(lambda x: .*)$", str(refused.value))
    assert remedy is not None
    jac = eval(remedy[1], {"scipy": scipy, "fun": rosen})
    assert optimize.minimize(rosen, [1.2, 1.2], jac=jac, method=adam).fun < 1e-6


def test_nothing_to_minimize_over() -> None:
    found = adam(lambda x: 3.0, np.zeros(0), jac=lambda x: x)
    assert (found.success, found.fun, found.nit, found.x.shape) == (True, 3.0, 0, (0,))


def test_a_noisy_quadratic_on_which_lbfgsb_fails() -> None:
    scales = np.geomspace(1, 30, 20)

    def noisy(seed: int) -> Callable[[Any], tuple[float, Any]]:
        rng = np.random.default_rng(seed)
        return lambda x: (
            float(scales @ x**2) / 2 + rng.standard_normal(),
            scales * x + rng.standard_normal(20),
        )

    for seed in range(3):
        start = np.full(20, 2.0)
        options = {"lr": Cosine(0.05, 2000), "maxiter": 2000, "patience": None}
        ours = optimize.minimize(noisy(seed), start, jac=True, method=adam, options=options)
        theirs = optimize.minimize(noisy(seed), start, jac=True, method="L-BFGS-B")
        assert scales @ ours.x**2 / 2 < 0.02 < 1.0 < scales @ theirs.x**2 / 2


def test_the_signature_is_the_one_that_scipy_calls() -> None:
    names = list(inspect.signature(adam).parameters)
    assert names[:9] == ["fun", "x0", "args", "jac", "hess", "hessp", "bounds", "constraints", "callback"]
