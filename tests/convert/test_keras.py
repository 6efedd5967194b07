"""Training begun in Keras goes on here, and back, and agrees with Keras going on by itself."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import convert
from tests.support.bits import assert_same_bits
from tests.support.convert_cases import SHAPES, STEPS, assert_near, assert_refuses, gradient, params, train

if importlib.util.find_spec("keras") is None:
    pytest.skip("could not import 'keras'", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras

# Keras on torch calls NumPy 2 as it should not.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")
EPS = 1e-7  # Keras' default
# So many steps on, that 0.5**steps is nothing even in float64: its epsilon is then the same as ours.
LATE = 60


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Each dtype; JAX, if Keras runs on it, has float64 only where it was told so."""
    if keras.backend.backend() == "jax" and request.param == "float64":
        pytest.skip("JAX has float64 only where it was told so before")
    return str(request.param)


def build(optimizer: Any, arrays: dict[str, np.ndarray]) -> tuple[Any, dict[str, Any]]:
    """Return Keras' optimizer, built, and the variables it is for, with paths like ours."""
    variables = {}
    for name, array in arrays.items():
        *scopes, own = name.split("/")
        with keras.name_scope("/".join(scopes)) if scopes else contextlib.nullcontext():
            variables[name] = keras.Variable(array, dtype=array.dtype.name, name=own)
    optimizer.build(list(variables.values()))
    return optimizer, variables


def go_on(optimizer: Any, variables: dict[str, Any], first: int, steps: int = STEPS) -> None:
    for step in range(first, first + steps):
        grads = [
            keras.ops.convert_to_tensor(gradient(np.asarray(variable), step)) for variable in variables.values()
        ]
        optimizer.apply(grads, list(variables.values()))


def values(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(variable).copy() for name, variable in variables.items()}


def as_mapping(optimizer: Any) -> dict[str, np.ndarray]:
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    return store


# With numbers that float32 holds: Keras rounds the options.
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Adam": (lambda: keras.optimizers.Adam(0.0625, beta_1=0.75, beta_2=0.5), {}),
    "Adam with decay": (
        lambda: keras.optimizers.Adam(0.0625, beta_2=0.5, weight_decay=0.125),
        {"weight_decay": 0.125, "decoupled_weight_decay": True},
    ),
    "AdamW": (lambda: keras.optimizers.AdamW(0.0625, 0.25, beta_2=0.5), {"weight_decay": 0.25}),
    "amsgrad": (lambda: keras.optimizers.AdamW(0.0625, 0.25, beta_2=0.5, amsgrad=True), {"amsgrad": True}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("source", ["optimizer", "variables", "mapping"])
@pytest.mark.parametrize("named", [True, False])
def test_training_goes_on_here_and_back(case: str, source: str, named: bool, dtype: str) -> None:
    make, options = CASES[case]
    theirs, variables = build(make(), params(dtype))
    go_on(theirs, variables, 0, LATE)
    arrays = values(variables)
    kind = fastadam.AdamW if "AdamW" in type(theirs).__name__ else fastadam.Adam
    given: Any = theirs
    ours = kind(arrays if named else arrays.values())
    if source != "optimizer":  # the options are ours to set
        given = theirs.variables if source == "variables" else as_mapping(theirs)
        options = {
            "betas": (theirs.beta_1, 0.5),
            "weight_decay": theirs.weight_decay or 0.0,
            **options,
            "eps": EPS,
        }
        ours = kind(arrays if named else arrays.values(), **options)
    convert.from_keras(given, ours)
    group = ours.param_groups[0]
    assert (group["lr"], group["eps"], group["betas"]) == (0.0625, EPS, (theirs.beta_1, 0.5))
    assert {key: group[key] for key in options} == options
    train(ours, arrays, LATE)
    go_on(theirs, variables, LATE)
    assert_near(arrays, values(variables))

    back, variables = build(make(), arrays)
    if not options.get("weight_decay"):
        group["weight_decay"] = back.weight_decay or 0.0
    back.load_own_variables(convert.to_keras(ours, back))
    assert int(np.asarray(back.iterations)) == LATE + STEPS
    go_on(back, variables, LATE + STEPS)
    train(ours, arrays, LATE + STEPS)
    assert_near(arrays, values(variables))


def test_epsilon_can_be_made_the_same_from_the_first_step_on() -> None:
    """Small gradients, for which epsilon matters, and the usual beta_2, for which the two differ for long."""
    eps = 1e-3
    theirs, variables = build(keras.optimizers.Adam(0.05, epsilon=eps), params("float32"))
    arrays = values(variables)
    alike, other = arrays, {name: array.copy() for name, array in arrays.items()}
    ours, not_quite = fastadam.Adam(alike), fastadam.Adam(other)
    convert.from_keras(theirs, ours)
    convert.from_keras(theirs, not_quite)
    for step in range(1, STEPS + 1):
        grads = {name: np.full(array.shape, 1e-3 / step, np.float32) for name, array in arrays.items()}
        theirs.apply([keras.ops.convert_to_tensor(grad) for grad in grads.values()], list(variables.values()))
        ours.param_groups[0]["eps"] = eps / (1 - 0.999**step) ** 0.5
        ours.step(grads)
        not_quite.step(grads)
    assert_near(alike, values(variables))
    with pytest.raises(AssertionError):
        assert_near(other, values(variables))


def test_every_bit_of_the_state_arrives_and_returns() -> None:
    theirs, variables = build(keras.optimizers.AdamW(0.05, amsgrad=True), params("float32"))
    go_on(theirs, variables, 0)
    ours = fastadam.Adam(fastadam.pack(dict(reversed(values(variables).items()))))
    convert.from_keras(theirs, ours)
    columns = dict(
        zip(variables, zip(theirs._momentums, theirs._velocities, theirs._velocity_hats, strict=True), strict=True)
    )
    for name in SHAPES:
        for key, variable in zip(("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), columns[name], strict=True):
            assert_same_bits(ours.state[name][key], np.asarray(variable))
    store = as_mapping(theirs)
    back = convert.to_keras(ours, theirs)
    assert list(back) == list(store)
    for key, array in store.items():
        assert_same_bits(np.asarray(back[key]), np.asarray(array))


def test_a_schedule(dtype: str) -> None:
    def make() -> Any:
        schedule = keras.optimizers.schedules.InverseTimeDecay(0.05, decay_steps=5, decay_rate=0.5)
        return keras.optimizers.Adam(schedule, beta_2=0.5)

    theirs, variables = build(make(), params(dtype))
    go_on(theirs, variables, 0, LATE)
    arrays = values(variables)
    ours = fastadam.Adam(arrays)
    with pytest.raises(ValueError, match=r"follows a schedule, .* lambda step: float\(schedule\(step - 1\)"):
        convert.from_keras(theirs, ours)
    ours = fastadam.Adam(arrays, lambda step: 0.05 / (1 + 0.5 * (step - 1) / 5))
    convert.from_keras(theirs, ours)
    train(ours, arrays, LATE)
    go_on(theirs, variables, LATE)
    for name, array in values(variables).items():  # Keras computes schedules in float32
        np.testing.assert_allclose(arrays[name], array, rtol=0, atol=5e-5)
    back, variables = build(make(), arrays)
    back.load_own_variables(convert.to_keras(ours, back))
    go_on(back, variables, LATE + STEPS)
    train(ours, arrays, LATE + STEPS)
    for name, array in values(variables).items():
        np.testing.assert_allclose(arrays[name], array, rtol=0, atol=5e-5)


def one(optimizer: Any = None, step: bool = True) -> Any:
    """Return Keras' optimizer, or Adam, for one variable of three numbers."""
    optimizer, variables = build(optimizer or keras.optimizers.Adam(0.05), {"top/w": np.ones(3, np.float32)})
    if step:
        go_on(optimizer, variables, 0, 1)
    return optimizer


def edited(place: int, value: Any) -> list[Any]:
    arrays: list[Any] = [np.int32(1), np.float32(0.1), np.ones(3, np.float32), np.ones(3, np.float32)]
    arrays[place] = value
    return arrays


def excluding() -> Any:
    optimizer = keras.optimizers.AdamW(0.05)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return one(optimizer)


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "no source": (lambda: 1, TypeError, "source must be Keras' Adam or AdamW, its variables, or the mapping"),
    "another optimizer": (
        lambda: one(keras.optimizers.SGD(0.1)),
        TypeError,
        "must be Keras' Adam or AdamW, got SGD",
    ),
    "Nadam": (lambda: one(keras.optimizers.Nadam(0.1)), TypeError, "must be Keras' Adam or AdamW, got Nadam"),
    "loss scaling": (
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.1)),
        TypeError,
        "got LossScaleOptimizer; pass its inner_optimizer",
    ),
    "not built": (lambda: keras.optimizers.Adam(0.1), ValueError, "optimizer is not built; call"),
    "clipping": (
        lambda: one(keras.optimizers.Adam(0.1, clipnorm=1.0)),
        ValueError,
        "clipnorm of Keras' optimizer is 1.0, and fastadam.Adam does not do that; do it yourself",
    ),
    "averages": (lambda: one(keras.optimizers.Adam(0.1, use_ema=True)), ValueError, "use_ema of Keras' optimizer"),
    "accumulation": (
        lambda: one(keras.optimizers.Adam(0.1, gradient_accumulation_steps=2)),
        ValueError,
        "gradient_accumulation_steps of Keras' optimizer is 2",
    ),
    "averages among the variables": (
        lambda: one(keras.optimizers.Adam(0.1, use_ema=True)).variables,
        ValueError,
        r"2 for each of 1 parameters \(amsgrad is False\)",
    ),
    "exclusion from decay": (
        excluding,
        ValueError,
        "exclude_from_weight_decay was called .* a group with",
    ),
    "too few arrays": (
        lambda: edited(0, np.int32(1))[:2],
        ValueError,
        "there are 2 variables, but 2 for each of 1",
    ),
    "arrays in another order": (lambda: edited(0, np.int32(1))[::-1], ValueError, "come first and are no arrays"),
    "variables in another order": (
        lambda: [*one().variables[:2], *one().variables[:1:-1]],
        ValueError,
        "'top_w_velocity_momentum' was expected|these are not the variables of Keras' Adam, or not in their order",
    ),
    "other keys": (lambda: {"0": 1, "vars": 2}, ValueError, "the keys must be '0' to '1'.* got"),
    "no arrays": (lambda: edited(2, "momentum"), TypeError, "there must be variables or arrays, got 'momentum'"),
    "another shape": (
        lambda: edited(2, np.ones(4, np.float32)),
        ValueError,
        r"parameter 'top/w' \(float32 \(4,\) in the source, float32 \(3,\) here\); make opt over parameters",
    ),
    "a wider dtype": (lambda: edited(3, np.ones(3)), ValueError, r"\(float64 \(3,\) in the source"),
    "a counter of NaN": (lambda: edited(0, np.float32(np.nan)), ValueError, "step must be a whole number"),
    "a negative counter": (lambda: edited(0, np.int32(-1)), ValueError, "step must be a whole number"),
    "a learning rate of NaN": (lambda: edited(1, np.float32(np.nan)), ValueError, "lr must be finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(case: str) -> None:
    make, error, match = REFUSED[case]
    source = make()
    assert_refuses(lambda ours: convert.from_keras(source, ours), "top/w", error, match)


def test_names_that_differ_or_cannot_be_told_apart_are_said() -> None:
    with pytest.raises(ValueError, match="missing: 'v'; unexpected: parameter 'top_w'"):
        convert.from_keras(one(), fastadam.Adam({"v": np.ones(3, np.float32)}))
    arrays = {name: np.ones(3, np.float32) for name in ("top/w", "top_w")}
    with pytest.raises(ValueError, match=r"differ only in '/' and '_'.* give their values as arrays"):
        convert.from_keras(one(), fastadam.Adam(arrays))


def test_to_keras_refuses_what_keras_does_not_have() -> None:
    w = {"top/w": np.ones(3, np.float32)}
    for options, match in (
        ({}, r"eps is 1e-08 in opt and 1e-07 in optimizer; make them the same"),
        ({"eps": EPS, "maximize": True}, "maximize is True in opt and False in optimizer"),
        ({"eps": EPS, "amsgrad": True}, "amsgrad is True in opt and False in optimizer"),
        ({"eps": EPS, "weight_decay": 0.1}, "weight_decay is 0.1 in opt and 0.0 in optimizer"),
        ({"eps": EPS, "betas": (0.5, 0.999)}, r"betas is \(0.5, 0.999\) in opt and \(0.9, 0.999\) in optimizer"),
        ({"eps": EPS, "lr": lambda step: 0.1}, "lr of opt is a function, that of optimizer a number"),
    ):
        with pytest.raises(ValueError, match=match):
            convert.to_keras(fastadam.Adam(w, **options), one())
    coupled = fastadam.Adam(w, eps=EPS, weight_decay=0.1)
    with pytest.raises(ValueError, match="decoupled_weight_decay is False in opt and True in optimizer"):
        convert.to_keras(coupled, one(keras.optimizers.Adam(0.05, weight_decay=0.1)))
    with pytest.raises(ValueError, match=r"\(float32 \(3,\) in the target, float64 \(3,\) here\)"):
        convert.to_keras(fastadam.Adam({"top/w": np.ones(3)}, eps=EPS), one())
    with pytest.raises(TypeError, match="optimizer must be Keras' Adam or AdamW, got list"):
        convert.to_keras(coupled, [])
    with pytest.raises(TypeError, match="it must be Keras' Adam or AdamW, got SGD"):
        convert.to_keras(coupled, one(keras.optimizers.SGD(0.1)))
    two = fastadam.Adam({name: np.ones(3, np.float32) for name in ("top/v", "top/w")}, eps=EPS)
    two.step({"top/v": np.ones(3, np.float32), "top/w": None})
    theirs, _ = build(keras.optimizers.Adam(0.1), {name: np.ones(3, np.float32) for name in ("top/v", "top/w")})
    with pytest.raises(ValueError, match="parameter 'top/w' has taken 0 steps and parameter 'top/v' 1, but"):
        convert.to_keras(two, theirs)
