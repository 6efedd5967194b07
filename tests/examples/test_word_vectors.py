"""Word vectors: the gradients are right, and words that are used alike get nearer to each other than others."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import fastadam
from tests.examples.loading import central_differences, load, run_main

pytest.importorskip("matplotlib")


def batch(example: ModuleType, n_words: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return vectors and a batch in which words occur several times, and the last one never."""
    rng = np.random.default_rng(0)
    params = {name: rng.standard_normal((n_words, 3)) for name in ("inner", "outer")}
    last = n_words - 1
    return params, rng.integers(last, size=10), rng.integers(last, size=(10, 1 + example.NEGATIVES))


def test_gradients_match_central_differences() -> None:
    """Those of a word that occurs several times add up."""
    example = load("word_vectors")
    params, centres, others = batch(example, 5)
    _, gradients = example.loss_and_gradients(params, centres, others)
    assert gradients.keys() == params.keys()
    for name, array in params.items():
        rows = gradients[name]
        assert len(np.unique(rows.indices)) < len(rows.indices)
        summed = np.zeros_like(array)
        np.add.at(summed, rows.indices, rows.grads)
        expected = central_differences(lambda: example.loss_and_gradients(params, centres, others)[0], array)
        np.testing.assert_allclose(summed, expected, rtol=1e-5, atol=1e-6)


def test_a_step_adds_up_the_gradients_of_a_word_and_leaves_other_words_alone() -> None:
    example = load("word_vectors")
    params, centres, others = batch(example, 5)
    before = {name: array.copy() for name, array in params.items()}
    _, gradients = example.loss_and_gradients(params, centres, others)
    optimizer = fastadam.Adam(params)
    optimizer.step(gradients)
    for name, rows in gradients.items():
        summed = np.zeros_like(before[name])
        np.add.at(summed, rows.indices, rows.grads)
        np.testing.assert_allclose(optimizer.state[name]["exp_avg"], 0.1 * summed, rtol=1e-12, atol=1e-15)
        seen = np.isin(np.arange(5), rows.indices)
        assert not seen[4]
        assert (params[name][seen] != before[name][seen]).all()
        np.testing.assert_array_equal(params[name][~seen], before[name][~seen])


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
