"""Learn vectors for the words of Python's manual, so that words used alike lie together.

The text is that of ``help("topics")``, in the standard library: about 64,000 words. The method is skip-gram with
negative sampling (Mikolov et al. 2013, arXiv:1310.4546). A word has a vector u for when it stands in the centre
and a vector v for when it stands near another. Neighbours are to have a large u.v, random pairs a small one:

    loss = -log sigmoid(u.v) - sum over K random words of log sigmoid(-u.v')

A batch touches only some words, many of them several times. Their gradients go to the optimizer as they come, in
``fastadam.Rows``: ``step`` adds up those of the same word, and moves the vectors of these words alone.

Needs fastadam and matplotlib. Run it with ``python examples/word_vectors.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from _corpus import Corpus, Ints, read_corpus
from _options import make_parser, positive
from _style import BLUE, GREEN, ORANGE, RED, new_figure, save
from numpy.typing import NDArray

import fastadam

DIMENSIONS = 32
WINDOW = 4  # how many words to either side are neighbours
NEGATIVES = 5  # random words for each pair
BATCH_SIZE = 1024
LEARNING_RATE = 0.015  # at the start; falls linearly, epoch by epoch

SIGNS = np.array([-1] + [1] * NEGATIVES, np.float32)  # of the scores in the loss

# Words to draw, by colour
GROUPS = {
    BLUE: ("integer", "float", "digits", "positive", "zero"),
    ORANGE: ("string", "whitespace", "prefix", "unicode"),
    GREEN: ("class", "subclass", "metaclass", "mro"),
    RED: ("try", "except", "raise", "exception", "traceback"),
}

Floats = NDArray[np.float32]
Params = dict[str, Floats]  # "inner", the vectors u, and "outer", the vectors v
Gradients = dict[str, fastadam.Rows]


def pairs(corpus: Corpus, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return centre words and their neighbours, shuffled; frequent words are thinned out."""
    frequency = corpus.counts / corpus.counts.sum()
    kept = corpus.text[rng.random(len(corpus.text)) < np.sqrt(1e-3 / frequency)[corpus.text]]
    centres = np.concatenate([kept[gap:] for gap in range(1, WINDOW + 1)])
    neighbours = np.concatenate([kept[:-gap] for gap in range(1, WINDOW + 1)])
    order = rng.permutation(2 * len(centres))
    return np.concatenate([centres, neighbours])[order], np.concatenate([neighbours, centres])[order]


def loss_and_gradients(params: Params, centres: Ints, others: Ints) -> tuple[float, Gradients]:
    """Return the mean loss of a batch, and its gradients by the words in it.

    For each of `centres`, (batch,), `others`, (batch, 1 + NEGATIVES), has its neighbour, then words at random.
    """
    u, v = params["inner"][centres], params["outer"][others]
    scores = np.einsum("bd,bkd->bk", u, v)
    # -log sigmoid(s) for the neighbour, -log sigmoid(-s) for the rest; logaddexp cannot overflow.
    loss = np.logaddexp(0, scores * SIGNS).sum() / len(centres)
    d_scores = SIGNS / (1 + np.exp(-scores * SIGNS)) / np.float32(len(centres))
    d_u, d_v = np.einsum("bk,bkd->bd", d_scores, v), d_scores[..., None] * u[:, None, :]
    # A word may be there several times; the step adds up all its gradients.
    inner, outer = fastadam.Rows(centres, d_u), fastadam.Rows(others.ravel(), d_v.reshape(-1, u.shape[1]))
    return float(loss), {"inner": inner, "outer": outer}


def train(corpus: Corpus, seed: int = 0, epochs: int = 8) -> tuple[Floats, list[float]]:
    """Return the inner vectors, scaled to length 1, and the mean loss of each epoch."""
    rng = np.random.default_rng(seed)
    shape = len(corpus.words), DIMENSIONS
    inner = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(DIMENSIONS))
    params = {"inner": inner, "outer": np.zeros(shape, np.float32)}
    optimizer = fastadam.Adam(params)
    noise = np.cumsum(corpus.counts**0.75)  # how often words are drawn at random
    noise /= noise[-1]
    losses = []
    for epoch in range(epochs):
        optimizer.lr = LEARNING_RATE * (1 - epoch / epochs)
        centres, neighbours = pairs(corpus, rng)
        n_batches = len(centres) // BATCH_SIZE
        total = 0.0
        for batch in np.arange(n_batches * BATCH_SIZE).reshape(n_batches, BATCH_SIZE):
            random = np.searchsorted(noise, rng.random((BATCH_SIZE, NEGATIVES)))
            others = np.concatenate([neighbours[batch, None], random], axis=1)
            loss, gradients = loss_and_gradients(params, centres[batch], others)
            optimizer.step(gradients)
            total += loss
        losses.append(total / n_batches)
    return inner / np.linalg.norm(inner, axis=1, keepdims=True), losses


def nearest(corpus: Corpus, vectors: Floats, word: str, n: int = 5) -> list[str]:
    """Return the words whose vectors lie nearest to that of a word."""
    similarity = vectors @ vectors[corpus.words.index(word)]
    return [corpus.words[i] for i in similarity.argsort()[::-1][1 : n + 1]]


def plot(corpus: Corpus, vectors: Floats, path: Path) -> None:
    """Draw a few words, by the two directions in which their vectors differ most."""
    words = [word for group in GROUPS.values() for word in group]
    colors = [color for color, group in GROUPS.items() for _ in group]
    chosen = vectors[[corpus.words.index(word) for word in words]]
    chosen = chosen - chosen.mean(axis=0)
    x, y = np.linalg.svd(chosen, full_matrices=False)[2][:2] @ chosen.T
    figure = new_figure(4.6)
    ax = figure.subplots()
    ax.scatter(x, y, s=12, c=colors)
    for word, a, b, color in zip(words, x, y, colors, strict=True):
        ax.annotate(word, (a, b), xytext=(4, 1), textcoords="offset points", color=color, size="small")
    ax.set(xticklabels=[], yticklabels=[], title="Words of Python's manual, by their two principal components")
    ax.margins(x=0.12)
    save(figure, path)


def main() -> None:
    """Learn the vectors, print some words' nearest neighbours and draw the picture."""
    parser = make_parser("Learn word vectors from Python's help topics with fastadam.", "word_vectors.png")
    parser.add_argument("--epochs", type=positive, default=8, help="passes over the text")
    args = parser.parse_args()
    corpus = read_corpus()
    vectors, losses = train(corpus, args.seed, args.epochs)
    print(f"Loss of a pair: {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last")
    for word in ("mutable", "left", "string", "integer", "try"):
        print(f"{word:8} {', '.join(nearest(corpus, vectors, word))}")
    plot(corpus, vectors, args.plot)


if __name__ == "__main__":
    main()
