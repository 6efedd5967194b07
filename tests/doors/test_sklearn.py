"""scikit-learn's perceptrons with our steps."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

base = pytest.importorskip("sklearn.base")
datasets = pytest.importorskip("sklearn.datasets")
neural_network = pytest.importorskip("sklearn.neural_network")
theirs = importlib.import_module("sklearn.neural_network._multilayer_perceptron")
fast_adam = importlib.import_module("fastadam.sklearn").fast_adam
AdamOptimizer = theirs.AdamOptimizer
MLPClassifier, MLPRegressor = neural_network.MLPClassifier, neural_network.MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def digits() -> tuple[Any, Any]:
    x, y = datasets.load_digits(return_X_y=True)
    return x[:600] / 16, y[:600]


def both(model: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Return the model as fitted by scikit-learn, and with our steps."""
    first, second = base.clone(model), base.clone(model)
    first.fit(x, y)
    with fast_adam():
        second.fit(x, y)
    assert type(first._optimizer) is AdamOptimizer
    assert type(second._optimizer) is not AdamOptimizer
    return first, second


def assert_alike(first: Any, second: Any, rtol: float = 1e-9) -> None:
    for a, b in zip(first.coefs_ + first.intercepts_, second.coefs_ + second.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(second.loss_curve_, first.loss_curve_, rtol=rtol)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"hidden_layer_sizes": (20, 10), "activation": "tanh", "alpha": 0.01, "batch_size": 64},
        {"learning_rate_init": 0.01, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-3},
        {"early_stopping": True, "n_iter_no_change": 3, "tol": 0.02},
    ],
    ids=["defaults", "layers", "options", "early stopping"],
)
def test_classifiers_are_alike(digits: Any, options: dict[str, Any]) -> None:
    first, second = both(MLPClassifier(random_state=0, max_iter=30, **options), *digits)
    assert_alike(first, second)
    assert second.score(*digits) == first.score(*digits) > 0.8
    assert second.n_iter_ == first.n_iter_


def test_regressors_are_alike() -> None:
    x, y = datasets.make_regression(200, 5, noise=1.0, random_state=0)
    first, second = both(MLPRegressor(random_state=0, max_iter=50, learning_rate_init=0.01), x, y / 100)
    assert_alike(first, second)


def test_float32_stays_float32(digits: Any) -> None:
    x, y = digits
    first, second = both(MLPClassifier(random_state=0, max_iter=5), x.astype(np.float32), y)
    assert second.coefs_[0].dtype == np.float32
    assert_alike(first, second, rtol=1e-3)


def test_sparse_input(digits: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    x, y = digits
    assert_alike(*both(MLPClassifier(random_state=0, max_iter=5), sparse.csr_matrix(x), y))


def test_partial_fit_goes_on(digits: Any) -> None:
    x, y = digits
    models = [MLPClassifier(random_state=0) for _ in range(2)]
    for i in range(4):
        models[0].partial_fit(x, y, classes=range(10))
        if i < 2:
            with fast_adam():
                models[1].partial_fit(x, y, classes=range(10))
        else:  # it keeps its optimizer
            models[1].partial_fit(x, y)
    assert_alike(*models)
    assert models[1]._optimizer.t == models[0]._optimizer.t


def test_partial_fit_over_exchanged_weights(digits: Any) -> None:
    x, y = digits
    models = [MLPClassifier(random_state=0) for _ in range(2)]
    for i in range(3):
        for model, block in zip(models, (threading.Lock(), fast_adam()), strict=True):
            with block:
                model.partial_fit(x, y, classes=range(10))
                if i == 1:
                    model.coefs_[0] = model.coefs_[0].copy()
    assert_alike(*models)


def test_warm_start(digits: Any) -> None:
    x, y = digits
    models = [MLPClassifier(random_state=0, warm_start=True, max_iter=3) for _ in range(2)]
    for _ in range(3):
        models[0].fit(x, y)
        with fast_adam():
            models[1].fit(x, y)
    assert_alike(*models)


def test_its_attributes_are_those_of_scikit_learns(digits: Any) -> None:
    first, second = both(MLPClassifier(random_state=0, max_iter=3), *digits)
    for name in ("t", "beta_1", "beta_2", "epsilon", "learning_rate_init"):
        assert getattr(second._optimizer, name) == getattr(first._optimizer, name)
    assert second._optimizer.learning_rate == pytest.approx(first._optimizer.learning_rate, rel=1e-15)
    for name in ("ms", "vs"):
        for a, b in zip(getattr(first._optimizer, name), getattr(second._optimizer, name), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-15)


def test_options_changed_between_steps_are_honoured(digits: Any) -> None:
    x, y = digits
    models = [MLPClassifier(random_state=0) for _ in range(2)]
    for i in range(3):
        models[0].partial_fit(x, y, classes=range(10))
        with fast_adam():
            models[1].partial_fit(x, y, classes=range(10))
        for model in models:
            model._optimizer.learning_rate_init = 0.01 / (i + 1)
            model._optimizer.beta_1 = 0.8
            model._optimizer.epsilon = 1e-4
    assert_alike(*models)


def test_other_solvers_are_left_alone(digits: Any) -> None:
    for solver in ("sgd", "lbfgs"):
        model = MLPClassifier(solver=solver, random_state=0, max_iter=3)
        plain = base.clone(model).fit(*digits)
        with fast_adam():
            fast = base.clone(model).fit(*digits)
        for a, b in zip(plain.coefs_, fast.coefs_, strict=True):
            assert a.tobytes() == b.tobytes()


def test_pickles_load_without_this_library(digits: Any) -> None:
    x, y = digits
    with fast_adam():
        model = MLPClassifier(random_state=0).partial_fit(x, y, classes=range(10))
    data = pickle.dumps(model)
    code = (
        "import pickle, sys\n"
        "sys.modules['fastadam'] = None\n"
        "model = pickle.load(sys.stdin.buffer)\n"
        "print(type(model._optimizer).__module__, model._optimizer.t)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, timeout=120)
    assert done.stdout.decode().split() == [AdamOptimizer.__module__, str(model._optimizer.t)]
    again = pickle.loads(data)
    model.partial_fit(x, y)
    again.partial_fit(x, y)
    assert_alike(again, model)


def test_copies_go_on_apart(digits: Any) -> None:
    x, y = digits
    with fast_adam():
        model = MLPClassifier(random_state=0).partial_fit(x, y, classes=range(10))
    twin = copy.deepcopy(model)
    assert type(twin._optimizer) is type(model._optimizer)
    before = [c.copy() for c in twin.coefs_]
    model.partial_fit(x, y)
    for a, b in zip(before, twin.coefs_, strict=True):
        assert a.tobytes() == b.tobytes()
    twin.partial_fit(x, y)
    assert_alike(model, twin)


def test_blocks_nest_and_end_with_errors() -> None:
    with fast_adam():
        with pytest.raises(ZeroDivisionError), fast_adam():
            raise ZeroDivisionError
        assert theirs.AdamOptimizer is not AdamOptimizer
    assert theirs.AdamOptimizer is AdamOptimizer


def test_blocks_of_several_threads_overlap() -> None:
    entered, leave = threading.Barrier(9), threading.Event()
    wrong: list[str] = []

    def work() -> None:
        with fast_adam():
            entered.wait()
            leave.wait()
            if theirs.AdamOptimizer is AdamOptimizer:
                wrong.append("restored too early")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    entered.wait()
    with fast_adam():
        pass
    assert theirs.AdamOptimizer is not AdamOptimizer
    leave.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert theirs.AdamOptimizer is AdamOptimizer


def test_it_can_be_a_decorator(digits: Any) -> None:
    @fast_adam()
    def fit() -> Any:
        return MLPClassifier(random_state=0, max_iter=2).fit(*digits)

    for _ in range(2):
        assert type(fit()._optimizer) is not AdamOptimizer
    assert theirs.AdamOptimizer is AdamOptimizer
