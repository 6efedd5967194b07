"""Word vectors: the gradients are right, and words that are used alike get nearer to each other than others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastadam
from tests.examples.loading import central_differences, load, run_main

pytest.importorskip("matplotlib")


def test_gradients_match_central_differences() -> None:
    """Words occur several times in the batch, so that gradients have to add up."""
    example = load("word_vectors")
    rng = np.random.default_rng(0)
    flat = fastadam.pack({"inner": rng.standard_normal((4, 3)), "outer": rng.standard_normal((4, 3))})
    centres, others = rng.integers(4, size=10), rng.integers(4, size=(10, 1 + example.NEGATIVES))
    example.loss_and_gradients(flat, centres, others)
    gradient = flat.grad.copy()
    expected = central_differences(lambda: example.loss_and_gradients(flat, centres, others), flat.param)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_related_words_are_near(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    example = load("word_vectors")
    corpus = load("_corpus").read_corpus()
    kept = {}

    def plot(corpus: object, vectors: np.ndarray, path: Path) -> None:
        kept["vectors"] = vectors
        original(corpus, vectors, path)

    original = example.plot
    monkeypatch.setattr(example, "plot", plot)
    path = tmp_path / "words.png"
    run_main(monkeypatch, "word_vectors", "--epochs", "3", "--plot", str(path))
    assert "Loss of a pair: " in capsys.readouterr().out
    similarity = kept["vectors"] @ kept["vectors"].T
    pairs = [
        ("left", "right"),
        ("true", "false"),
        ("positive", "negative"),
        ("integer", "floating"),
        ("try", "except"),
    ]
    related = [similarity[corpus.words.index(a), corpus.words.index(b)] for a, b in pairs]
    assert min(related) > 0.2
    assert np.mean(related) > similarity.mean() + 0.3
    assert 1e4 < path.stat().st_size < 8e4
