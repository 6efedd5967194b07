"""The picture of Gaussians: its gradients are right, and a revision carries over what stays."""

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


def test_a_revision_removes_the_faint_and_carries_over_the_others(gaussians: ModuleType) -> None:
    params = make_params(5, np.float32)
    params["colour"][[1, 3]] = gaussians.FAINT / 2
    optimizer = fastadam.Adam([{"params": params, "lr": gaussians.RATES}])
    rng = np.random.default_rng(2)
    for _ in range(3):
        optimizer.step({name: rng.standard_normal(array.shape, np.float32) for name, array in params.items()})
    params["colour"][[1, 3]] = gaussians.FAINT / 2
    r = rng.random((100, 2)).astype(np.float32)
    fresh = gaussians.newcomers(rng.random((100, 3)).astype(np.float32), r, 2, rng)
    revised, successor = gaussians.revise(params, optimizer, fresh)
    for name in ("centre", "shape", "colour"):
        np.testing.assert_array_equal(revised[name], np.concatenate([params[name][[0, 2, 4]], fresh[name]]))
        state = successor.state[name]
        np.testing.assert_array_equal(state["exp_avg"][:3], optimizer.state[name]["exp_avg"][[0, 2, 4]])
        np.testing.assert_array_equal(state["exp_avg_sq"][:3], optimizer.state[name]["exp_avg_sq"][[0, 2, 4]])
        assert not state["exp_avg"][3:].any()
        assert not state["exp_avg_sq"][3:].any()
        assert state["step"] == 3
    assert revised["background"] is params["background"]


def test_paints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "gaussians.png"
    run_main(monkeypatch, "gaussians", "--steps", "120", "--plot", str(path))
    count, error = capsys.readouterr().out.split("(")[0].split(" Gaussians, error of a colour ")
    assert 20 < int(count) <= 40
    assert float(error) < 0.06
    assert 1e4 < path.stat().st_size < 8e4


def test_a_single_step_can_be_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "gaussians.png"
    run_main(monkeypatch, "gaussians", "--steps", "1", "--plot", str(path))
    assert path.stat().st_size > 1e4
