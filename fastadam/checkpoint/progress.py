"""Progress bars."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from queue import SimpleQueue

from fastadam.checkpoint.format import Advance


@contextlib.contextmanager
def bar(show: bool, total: int, what: str) -> Iterator[Advance]:
    """Yield a function to call with the number of bytes just done."""
    if not show:
        yield lambda done: None
        return
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs the package tqdm: pip install tqdm") from error
    with tqdm(total=total, unit="B", unit_scale=True, desc=what) as shown:
        yield shown.update


@contextlib.contextmanager
def bar_of_its_own(show: bool, total: int, what: str) -> Iterator[Advance | None]:
    """Yield what `bar` yields as a native function, or None where nothing is shown.

    For work that no Python code may interrupt (see `fastadam.step.interrupts`): a thread of its own moves the bar.
    """
    if not show:
        yield None
        return
    told: SimpleQueue[int | None] = SimpleQueue()

    def work() -> None:
        while (done := told.get()) is not None:
            advance(done)

    with bar(show, total, what) as advance:
        thread = threading.Thread(target=work, name="fastadam-progress", daemon=True)
        thread.start()
        try:
            yield told.put
        finally:
            told.put(None)
            thread.join()
