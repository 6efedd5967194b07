"""The physics-informed network: its true solution is one, and it gets nearer to it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.examples.loading import load, run_main

pytest.importorskip("autograd")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def pinn() -> ModuleType:
    return load("pinn")


def test_the_true_solution_solves_the_equation(pinn: ModuleType) -> None:
    x, t, h = np.linspace(-0.9, 0.9, 31), 0.4, 1e-3
    u = pinn.exact(t, x)
    u_t = (pinn.exact(t + h, x) - pinn.exact(t - h, x)) / (2 * h)
    u_x = (pinn.exact(t, x + h) - pinn.exact(t, x - h)) / (2 * h)
    u_xx = (pinn.exact(t, x + h) - 2 * u + pinn.exact(t, x - h)) / h**2
    assert np.abs(u_t).max() > 0.5
    np.testing.assert_allclose(u_t + u * u_x, pinn.VISCOSITY * u_xx, atol=2e-3)
    np.testing.assert_allclose(pinn.exact(1e-6, x), -np.sin(np.pi * x), atol=1e-4)


def test_the_network_has_the_initial_and_boundary_values(pinn: ModuleType) -> None:
    params = pinn.initial_params(np.random.default_rng(0))
    x = np.linspace(-1, 1, 11)
    np.testing.assert_array_equal(pinn.u(params, np.zeros(11), x), -np.sin(np.pi * x))
    for end in (-1.0, 1.0):
        np.testing.assert_allclose(pinn.u(params, np.linspace(0, 1, 11), np.full(11, end)), 0, atol=1e-15)


def test_gets_nearer_to_the_solution(
    pinn: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, value in (("SIZES", (2, 12, 12, 1)), ("POINTS", 60), ("VISCOSITY", 0.2)):  # an easier task
        monkeypatch.setattr(pinn, name, value)
    start = pinn.largest_error(pinn.initial_params(np.random.default_rng(0)))
    path = tmp_path / "pinn.png"
    run_main(monkeypatch, "pinn", "--steps", "150", "--plot", str(path))
    error = float(capsys.readouterr().out.split()[2])
    assert error < 0.25 < 0.8 < start
    assert 1e4 < path.stat().st_size < 8e4
