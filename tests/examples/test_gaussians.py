"""The picture of Gaussians: its gradients are right, and a revision splits, removes and adds what it has to."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.examples.loading import central_differences, load, run_main

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def gaussians() -> ModuleType:
    return load("gaussians")


def make_params(n: int, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = rng.normal([8, 0, 8], 2, (n, 3))
    params = {
        "background": rng.random(3),
        "centre": rng.random((n, 2)),
        "shape": shape,
        "colour": rng.random((n, 3)),
    }
    return {name: array.astype(dtype) for name, array in params.items()}


def test_gradients_match_central_differences(gaussians: ModuleType) -> None:
    rng = np.random.default_rng(1)
    r, target = rng.random((50, 2)), rng.random((50, 3))
    params = make_params(4)
    _, gradients = gaussians.loss_and_gradients(params, r, target)

    def loss() -> float:
        return float((gaussians.loss_and_gradients(params, r, target)[0] ** 2).sum() / 2)

    assert gradients.keys() == params.keys()
    for name, array in params.items():
        np.testing.assert_allclose(gradients[name], central_differences(loss, array), rtol=1e-5, atol=1e-6)


OF_EACH = ("centre", "shape", "colour")  # the parameters with a row for each Gaussian


def stepped(gaussians: ModuleType, n: int) -> tuple[dict[str, np.ndarray], fastadam.Adam]:
    """Return parameters after a few steps, of which the Gaussians 1 and 3 are faint, and the optimizer."""
    params = make_params(n, np.float32)
    optimizer = fastadam.Adam([{"params": params, "lr": gaussians.RATES}])
    rng = np.random.default_rng(2)
    for _ in range(3):
        optimizer.step({name: rng.standard_normal(array.shape, np.float32) for name, array in params.items()})
    params["colour"][[1, 3]] = gaussians.FAINT / 2
    return params, optimizer


def newcomers(gaussians: ModuleType, n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    error, r = rng.random((100, 3)).astype(np.float32), rng.random((100, 2)).astype(np.float32)
    made: dict[str, np.ndarray] = gaussians.newcomers(error, r, n, rng)
    return made


def moments(optimizer: fastadam.Adam, name: str) -> list[np.ndarray]:
    return [optimizer.state[name][moment].copy() for moment in ("exp_avg", "exp_avg_sq")]


@pytest.mark.parametrize("n_new", [0, 2])
def test_a_revision_splits_the_pulled_removes_the_faint_and_adds_the_new(
    gaussians: ModuleType, monkeypatch: pytest.MonkeyPatch, n_new: int
) -> None:
    monkeypatch.setattr(gaussians, "SPLIT", 3)
    params, optimizer = stepped(gaussians, 6)
    before = {name: array.copy() for name, array in params.items()}
    moments_before = {name: moments(optimizer, name) for name in OF_EACH}
    pull = np.array(
        [[0, 1], [0, 9], [-3, 4], [0, 2], [6, 0], [1, 1]], np.float32
    )  # hardest 1, which is faint, 4, 2
    background, new = params["background"], newcomers(gaussians, n_new)
    gaussians.revise(params, optimizer, pull, new, np.random.default_rng(0))
    old, copies = [0, 2, 4, 5], [4, 2]  # 4 and 2 are split; 1, 3 and both halves of 1 are gone
    first, second = slice(4), slice(4, 6)
    split = np.array([2, 1])  # where 4 and 2 are now
    colour, shape, centre = params["colour"], params["shape"], params["centre"]
    np.testing.assert_array_equal(colour[first], before["colour"][old])
    np.testing.assert_array_equal(colour[second], before["colour"][copies])
    for halves in (split, second):
        np.testing.assert_array_equal(shape[halves], before["shape"][copies] * np.float32(gaussians.SMALLER))
    np.testing.assert_allclose((centre[split] + centre[second]) / 2, before["centre"][copies], rtol=1e-5)
    assert (centre[split] != centre[second]).all()
    for name in ("centre", "shape"):
        np.testing.assert_array_equal(params[name][[0, 3]], before[name][[0, 5]])
    for name, rows in new.items():
        np.testing.assert_array_equal(params[name][6:], rows)
        for found, was in zip(moments(optimizer, name), moments_before[name], strict=True):
            np.testing.assert_array_equal(found[first], was[old])
            assert not found[4:].any()
        assert optimizer.state[name]["step"] == 3
    assert params["background"] is background


def test_a_half_lies_half_a_width_away(gaussians: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """In units of its own bell: L offset is normal, with a deviation of 1/2, in every direction."""
    n = 500
    monkeypatch.setattr(gaussians, "SPLIT", n)
    params, optimizer = stepped(gaussians, n)
    params["colour"][...] = 1
    l_xx, l_yx, l_yy = params["shape"].T.copy()
    order = np.arange(n, dtype=np.float32)[::-1, None].repeat(2, axis=1)  # so that parents are in their order
    old = params["centre"].copy()
    gaussians.revise(params, optimizer, order, newcomers(gaussians, 0), np.random.default_rng(0))
    x, y = (params["centre"][:n] - old).T
    u, v = l_xx * x, l_yx * x + l_yy * y
    covariance = np.cov(u, v)
    np.testing.assert_allclose(covariance, np.eye(2) / 4, atol=0.05)


def test_steps_go_on_after_a_revision(gaussians: ModuleType) -> None:
    params, optimizer = stepped(gaussians, 6)
    pull = np.ones((6, 2), np.float32)
    gaussians.revise(params, optimizer, pull, newcomers(gaussians, 4), np.random.default_rng(0))
    before = {name: array.copy() for name, array in params.items()}
    optimizer.step({name: np.ones_like(array) for name, array in params.items()})
    for name, array in params.items():
        assert (array != before[name]).all()


def test_paints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "gaussians.png"
    run_main(monkeypatch, "gaussians", "--steps", "120", "--plot", str(path))
    count, error = capsys.readouterr().out.split("(")[0].split(" Gaussians, error of a colour ")
    assert 30 < int(count) <= 55
    assert float(error) < 0.05
    assert 1e4 < path.stat().st_size < 8e4


def test_a_single_step_can_be_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "gaussians.png"
    run_main(monkeypatch, "gaussians", "--steps", "1", "--plot", str(path))
    assert path.stat().st_size > 1e4
