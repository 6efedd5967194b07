"""The text from which ``word_vectors.py`` learns: Python's manual, as ``help("topics")`` shows it."""

from __future__ import annotations

import re
from collections import Counter
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RAREST = 8  # words that occur less often are left out

Ints = NDArray[np.int64]


class Corpus(NamedTuple):
    """The words by falling frequency, how often each occurs, and the text as indices of words."""

    words: list[str]
    counts: Ints
    text: Ints


def read_corpus() -> Corpus:
    """Return the text of Python's help topics."""
    tokens = re.findall(r"[a-z]+", " ".join(topics.values()).lower())
    counts = {word: n for word, n in Counter(tokens).most_common() if n >= RAREST}
    index = {word: i for i, word in enumerate(counts)}
    text = np.array([index[token] for token in tokens if token in index])
    return Corpus(list(counts), np.array(list(counts.values())), text)
