"""The pendulum: its sensitivities are derivatives, and the fit finds the constants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.examples.loading import central_differences, load, run_main

pytest.importorskip("matplotlib")


def test_sensitivities_match_central_differences() -> None:
    pendulum = load("pendulum")
    measured = pendulum.measure(0)
    constants = pendulum.GUESS.copy()
    _, gradient = pendulum.loss_and_gradient(constants, measured)
    expected = central_differences(lambda: pendulum.loss_and_gradient(constants, measured)[0], constants)
    assert np.abs(expected).min() > 1e-5  # so that the comparison says something
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


def test_a_pendulum_without_drive_and_damping_keeps_its_energy() -> None:
    pendulum = load("pendulum")
    k, angle = 9.0, 1.2
    angles, _ = pendulum.simulate(np.array([k, 0.0, 0.0, angle, 0.0]))
    assert np.abs(angles).max() == pytest.approx(angle, rel=1e-3)


def test_finds_the_constants(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As near as the noise allows: no constant is off by more than 2.5 standard errors."""
    pendulum = load("pendulum")
    path = tmp_path / "pendulum.png"
    run_main(monkeypatch, "pendulum", "--steps", "150", "--plot", str(path))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:6]]
    found = np.array([float(row[-2]) for row in rows])
    _, derivatives = pendulum.simulate(pendulum.TRUTH)
    errors = pendulum.NOISE * np.sqrt(np.linalg.inv(derivatives.T @ derivatives).diagonal())
    assert errors.max() < 0.2
    assert (np.abs(found - pendulum.TRUTH) < 2.5 * errors).all()
    assert 1e4 < path.stat().st_size < 8e4
