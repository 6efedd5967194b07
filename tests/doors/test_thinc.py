"""thinc's models with our steps."""

from __future__ import annotations

import copy
import importlib
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    thinc = pytest.importorskip("thinc.api")
    ours = importlib.import_module("fastadam.thinc")

# torch's own, which thinc calls where torch is installed.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

KEY = (0, "W")


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 8)).astype(np.float32)
    labels = (x[:, 0] * x[:, 1] > 0).astype(int) + 2 * (x[:, 2] > 0)
    return x, np.eye(4, dtype=np.float32)[labels]


def train(optimizer: Any, epochs: int = 8) -> tuple[list[float], Any]:
    """Train as spaCy does; return the losses, and the model."""
    thinc.fix_random_seed(0)
    x, y = data()
    model = thinc.chain(thinc.Relu(16, dropout=0.1), thinc.LayerNorm(), thinc.Relu(16), thinc.Softmax())
    model.initialize(X=x[:5], Y=y[:5])
    losses = []
    for _ in range(epochs):
        loss = 0.0
        for start in range(0, len(x), 32):
            guess, backprop = model.begin_update(x[start : start + 32])
            gradient = (guess - y[start : start + 32]) / 32
            loss += float((gradient**2).sum())
            backprop(gradient)
            model.finish_update(optimizer)
            optimizer.step_schedules()
        losses.append(loss)
    return losses, model


OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "rate": {"learn_rate": 0.01},
    "decay": {"learn_rate": 0.01, "L2": 0.01},
    "coupled": {"learn_rate": 0.01, "L2": 0.01, "L2_is_weight_decay": False},
    "clipped": {"learn_rate": 0.01, "grad_clip": 0.01},
    "others": {
        "learn_rate": 0.01,
        "beta1": 0.8,
        "beta2": 0.9,
        "eps": 1e-3,
        "grad_clip": 0.0,
        "use_averages": False,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_training_goes_as_with_thincs_own(name: str) -> None:
    first, theirs = train(thinc.Adam(**OPTIONS[name]))
    second, mine = train(ours.Adam(**OPTIONS[name]))
    np.testing.assert_allclose(second, first, rtol=1e-3)
    assert first[-1] < first[0]
    for a, b in zip(theirs.walk(), mine.walk(), strict=True):
        for param in a.param_names:
            np.testing.assert_allclose(b.get_param(param), a.get_param(param), rtol=1e-2, atol=1e-3)


def test_schedules_and_generators() -> None:
    for make in (
        lambda: thinc.warmup_linear(0.01, 10, 60),
        lambda: [0.02, 0.01, 0.005],
        lambda: (0.02 / i for i in range(1, 100)),
    ):
        first, _ = train(thinc.Adam(make(), beta1=thinc.decaying(0.9, 1e-3)), epochs=3)
        second, _ = train(ours.Adam(make(), beta1=thinc.decaying(0.9, 1e-3)), epochs=3)
        np.testing.assert_allclose(second, first, rtol=1e-3)


def test_averages_can_be_used() -> None:
    optimizers = [make(0.01) for make in (thinc.Adam, ours.Adam)]
    x, _ = data()
    guesses = []
    for optimizer in optimizers:
        _, model = train(optimizer, epochs=3)
        plain = model.predict(x)
        with model.use_params(optimizer.averages):
            guesses.append(model.predict(x))
        assert np.abs(guesses[-1] - plain).max() > 1e-4
        assert model.predict(x).tobytes() == plain.tobytes()
    np.testing.assert_allclose(guesses[1], guesses[0], atol=1e-3)


def steps(optimizer: Any, count: int, seed: int = 0, weights: Any = None, **options: Any) -> Any:
    rng = np.random.default_rng(seed)
    weights = np.ones((4, 3), np.float32) if weights is None else weights
    for _ in range(count):
        gradient = rng.standard_normal((4, 3)).astype(np.float32) / 10
        again, zeroed = optimizer(KEY, weights, gradient, **options)
        assert again is weights or np.shares_memory(again, weights)
        assert zeroed.shape == (4, 3)
        assert not zeroed.any()
        assert not gradient.any()
    return weights


@pytest.mark.parametrize("options", [{}, {"lr_scale": 0.25}])
def test_steps_agree_to_the_last_digits(options: dict[str, Any]) -> None:
    first, second = thinc.Adam(0.1), ours.Adam(0.1)
    np.testing.assert_allclose(steps(second, 20, **options), steps(first, 20, **options), rtol=1e-4, atol=1e-5)
    assert second.nr_update[KEY] == first.nr_update[KEY] == 20
    for name in ("mom1", "mom2", "averages"):
        ours_, theirs_ = getattr(second, name)[KEY], getattr(first, name)[KEY]
        assert ours_.shape == theirs_.shape
        np.testing.assert_allclose(ours_, theirs_, rtol=1e-4, atol=1e-5)


def test_the_moments_stay_with_the_key_where_weights_are_exchanged() -> None:
    first, second = ours.Adam(0.1), ours.Adam(0.1)
    one = steps(first, 6)
    rng = np.random.default_rng(0)
    two = np.ones((4, 3), np.float32)
    for _ in range(6):
        two = two.copy()
        second(KEY, two, rng.standard_normal((4, 3)).astype(np.float32) / 10)
    assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_and_pickles_go_on(again: Any) -> None:
    optimizer = ours.Adam(0.1)
    weights = steps(optimizer, 5)
    twin = again(optimizer)
    if again is copy.copy:  # shares the counters, as thinc's do
        twin.nr_update = copy.copy(optimizer.nr_update)
        twin.averages = None
    copied = weights.copy()
    steps(optimizer, 5, seed=1, weights=weights)
    if again is not copy.copy:
        steps(twin, 5, seed=1, weights=copied)
        assert weights.tobytes() == copied.tobytes()


def test_an_empty_gradient_is_handed_back() -> None:
    weights, gradient = np.ones((0, 3), np.float32), np.ones((0, 3), np.float32)
    found = ours.Adam(0.1)(KEY, weights, gradient)
    assert found[0] is weights
    assert found[1] is gradient


def test_without_moments_it_is_thincs_gradient_descent() -> None:
    first, second = (make(0.1, beta1=0.0, beta2=0.0) for make in (thinc.Adam, ours.Adam))
    assert steps(first, 5).tobytes() == steps(second, 5).tobytes()


def test_configs_can_name_it() -> None:
    config = {"optimizer": {"@optimizers": "fastadam.Adam.v1", "learn_rate": 0.25, "L2": 0.5}}
    optimizer = thinc.registry.resolve(config)["optimizer"]
    assert isinstance(optimizer, ours.Optimizer)
    assert isinstance(optimizer, thinc.Optimizer)
    assert optimizer.learn_rate(0, key=KEY) == 0.25


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"use_radam=True is not Adam; use thinc.api.RAdam"):
        ours.Optimizer(0.1, use_radam=True)
    with pytest.raises(ValueError, match="Invalid schedule for 'learn_rate'"):
        ours.Adam("fast")
    weights = np.ones((4, 3), np.float32)
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"learn_rate must be finite and at least 0, got {wrong}"):
            ours.Adam(wrong)(KEY, weights, np.ones((4, 3), np.float32))
    with pytest.raises(ValueError, match=r"betas\[0\] must be in \[0, 1\), got 1.0"):
        ours.Adam(0.1, beta1=1.0)(KEY, weights, np.ones((4, 3), np.float32))
    assert weights.tolist() == [[1.0] * 3] * 4
    with pytest.raises(TypeError, match="has dtype float64, its parameter has float32"):
        ours.Adam(0.1, grad_clip=0.0)(KEY, weights, np.ones((4, 3)))
    assert (weights == 1).all()
