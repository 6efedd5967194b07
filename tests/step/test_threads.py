"""How many threads a step takes."""

from __future__ import annotations

import pytest

from fastadam.step import threads


def test_thread_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    share = threads.ELEMENTS_PER_THREAD
    assert [threads.threads_for(n, 4) for n in (0, share, 2 * share - 1, 2 * share, 9 * share)] == [
        1,
        1,
        1,
        2,
        4,
    ]
    assert threads.check_limit(7) == 7
    monkeypatch.setattr(threads, "_forbidden", True)
    assert threads.threads_for(9 * share, 4) == 1
