"""The classifier in plain NumPy: its gradients are right, and it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastadam
from tests.examples.loading import central_differences, load, run_main

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def test_gradients_match_central_differences() -> None:
    digits = load("digits_numpy")
    rng = np.random.default_rng(0)
    flat = fastadam.pack({k: v.astype(float) for k, v in digits.initial_params(rng).items()})
    flat.param[...] += 0.1 * rng.standard_normal(flat.param.size)
    batch = rng.random((12, 64)), rng.integers(10, size=12)
    digits.loss_and_gradients(flat.params, flat.grads, *batch)
    scratch = fastadam.pack(flat.params.copy()).grads

    def loss() -> float:
        return digits.loss_and_gradients(flat.params, scratch, *batch)

    for name in ("b1", "w2", "b2"):
        np.testing.assert_allclose(flat.grads[name], central_differences(loss, flat.params[name]), atol=1e-8)
    rows = flat.params["w1"][:3]
    np.testing.assert_allclose(flat.grads["w1"][:3], central_differences(loss, rows), atol=1e-8)


def test_learns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "digits.png"
    run_main(monkeypatch, "digits_numpy", "--epochs", "8", "--plot", str(path))
    loss, accuracy = capsys.readouterr().out.splitlines()[0].removesuffix("%").split(", test accuracy ")
    assert float(loss.removeprefix("Loss ")) < 0.25
    assert float(accuracy) > 94
    assert 1e4 < path.stat().st_size < 8e4
