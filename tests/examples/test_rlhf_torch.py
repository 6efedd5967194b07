"""The language model with a taste: advantages are what they are defined to be, and the reward rises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.examples.loading import load, run_main

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from tests.support.torch_cases import surroundings  # noqa: E402 - it needs torch


@pytest.fixture(scope="module")
def rlhf() -> ModuleType:
    return load("rlhf_torch")


@pytest.fixture(autouse=True)
def as_found() -> Iterator[None]:
    """Undo afterwards what the program sets."""
    with surroundings():
        yield


def test_advantages_are_decaying_sums(rlhf: ModuleType) -> None:
    torch.manual_seed(0)
    rewards, values = torch.randn(2, 3, 6, dtype=torch.float64)
    following = torch.cat([values[:, 1:], torch.zeros(3, 1, dtype=torch.float64)], dim=1)
    errors = rewards + following - values
    expected = [sum(rlhf.GAE_LAMBDA ** (k - t) * errors[:, k] for k in range(t, 6)) for t in range(6)]
    torch.testing.assert_close(rlhf.advantages_of(rewards, values), torch.stack(expected, dim=1))


def test_a_letter_depends_on_those_before_it_alone(rlhf: ModuleType) -> None:
    """So the log-probabilities of a text that was written are those it was written with."""
    letters = load("_letters")
    torch.manual_seed(0)
    model = letters.letter_model(len(letters.LETTERS))
    text = letters.write(model, 5)
    assert text.shape == (5, 1 + letters.LENGTH)
    changed = text.clone()
    changed[:, 20:] = 3
    torch.testing.assert_close(letters.outputs(model, text)[:, :20], letters.outputs(model, changed)[:, :20])
    logits = letters.outputs(model, text[:, 12 - letters.CONTEXT : 12])[:, -1]
    torch.testing.assert_close(logits, letters.outputs(model, text)[:, 11])


def test_the_reward_rises(
    rlhf: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "rlhf.png"
    run_main(monkeypatch, "rlhf_torch", "--pretrain", "100", "--rounds", "12", "--plot", str(path))
    out = capsys.readouterr().out
    first, last = map(float, re.findall(r"(\d\.\d\d) in the", out))
    assert first < 1.2
    assert last > first + 1
    assert 1e4 < path.stat().st_size < 8e4
