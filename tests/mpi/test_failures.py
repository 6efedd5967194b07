"""A rank that raises, hangs or is killed makes the others fail with a message, in time."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from tests.mpi.launch import RANKS, check_all, run

SECONDS = 2.0  # the timeout that the programs have
LIMIT = 60  # seconds for all of a program
SAID = {"raises": "of the user's own", "interrupted": "KeyboardInterrupt", "hangs": ""}


@pytest.mark.parametrize("ranks", [ranks for ranks in RANKS if ranks in (2, 3)])
def test_all_ranks_raise(folder: Path, ranks: int) -> None:
    check_all(folder, "agreeing", ranks, at_least=23)


@pytest.mark.parametrize(
    ("way", "where", "steps"),
    [("raises", "between", 5), ("hangs", "between", 5), ("hangs", "exchange", 4), ("interrupted", "between", 5)],
)
def test_the_others_do_not_wait_for_ever(folder: Path, way: str, where: str, steps: int) -> None:
    code, printed = run(3, ["-m", "tests.mpi.failing", way, where, str(SECONDS)], LIMIT)
    assert code != 0
    for rank in (0, 1):
        found = re.search(rf"rank {rank} after {steps} steps and ([\d.]+) seconds: (.*)", printed)
        if found is None:  # the first one to give up ends the others
            continue
        assert SECONDS <= float(found[1]) < LIMIT
        assert f"rank {rank} of 3 waited 2 seconds for the other ranks in step" in found[2]
        assert f"rank {rank} again: the ranks have come apart before (rank {rank} of 3 waited" in printed
    assert re.search(rf"rank [01] after {steps} steps", printed), printed
    assert SAID[way] in printed


@pytest.mark.parametrize("way", ["raises", "interrupted"])
def test_an_error_in_the_middle_of_an_exchange_ends_all(folder: Path, way: str) -> None:
    """The rank that it happens on has the others ended when it ends, long before they would give up."""
    code, printed = run(3, ["-m", "tests.mpi.failing", way, "exchange", "1000"], LIMIT)
    assert code != 0
    assert SAID[way] in printed


def test_a_rank_that_does_not_begin(folder: Path) -> None:
    code, printed = run(2, ["-m", "tests.mpi.failing", "hangs", "first", str(SECONDS)], LIMIT)
    assert code != 0
    assert "LostRankError" in printed, printed


@pytest.mark.parametrize("where", ["between", "exchange"])
def test_a_rank_that_is_killed(folder: Path, where: str) -> None:
    """The launcher ends the others, or they find out."""
    code, printed = run(3, ["-m", "tests.mpi.failing", "killed", where, str(SECONDS)], LIMIT)
    assert code != 0
    assert f"EXIT CODE: {int(signal.SIGKILL)}" in printed or "LostRankError" in printed, printed


def test_mpi4py_ends_all_at_once(folder: Path) -> None:
    """As the documentation recommends for exceptions outside of the library; nobody waits for the timeout."""
    code, printed = run(3, ["-m", "mpi4py", "-m", "tests.mpi.failing", "raises", "between", "1000"], LIMIT)
    assert code != 0
    assert "of the user's own" in printed
    assert "after 5 steps" not in printed
