"""Run PyTorch's own tests of its optimizers with ours in their place: ``python -m tests.upstream PATH``.

PATH is that of ``test/test_optim.py`` in a copy of PyTorch's source, of a version near the installed one; the
folder ``optim`` beside it is needed, too. Of ``TestOptimRenewed`` the tests for Adam and AdamW on the CPU are run,
and of ``TestDifferentiableOptimizer`` all: with torch's classes, and with `fastadam.torch`'s put where they were.
What passes with torch's and not with ours is listed, and then the exit status is 1. The package expecttest is
needed, too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
import unittest
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = {"TestOptimRenewedCPU": re.compile(r"_AdamW?_"), "TestDifferentiableOptimizer": re.compile("")}
CONTENDERS = ("torch.optim", "fastadam.torch")
LONG = 1500  # seconds that no run comes near to, unless it hangs


def put_ours() -> None:
    """Let ``torch.optim.Adam`` and ``torch.optim.AdamW`` be ours."""
    import torch

    import fastadam.torch

    torch.optim.Adam, torch.optim.AdamW = fastadam.torch.Adam, fastadam.torch.AdamW  # type: ignore[misc]


def cases(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Return the single tests of a suite."""
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from cases(each)
        else:
            yield each


class Outcomes(unittest.TestResult):
    """Notes how each test went: ``"passed"``, ``"skipped"``, or what it raised."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        self._note(test, "passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        self._note(test, "skipped")

    def addFailure(self, test: unittest.TestCase, error: Any) -> None:  # noqa: N802
        self._note(test, " ".join(f"{error[0].__name__}: {error[1]}".split())[:200])

    addError = addFailure  # noqa: N815

    def _note(self, test: unittest.TestCase, outcome: str) -> None:
        self.by_name[".".join(test.id().split(".")[-2:])] = outcome


def run(path: Path) -> dict[str, str]:
    """Return how each test went, in this process."""
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path)]  # which PyTorch's tests look at as they are imported
    module = importlib.import_module(path.stem)
    loader = unittest.TestLoader()
    chosen = unittest.TestSuite()
    for name, wanted in TESTS.items():
        chosen.addTests(
            test
            for test in cases(loader.loadTestsFromTestCase(getattr(module, name)))
            if wanted.search(test.id().rpartition(".")[2])
        )
    outcomes = Outcomes()
    with contextlib.redirect_stdout(io.StringIO()):
        chosen.run(outcomes)
    return outcomes.by_name


def in_process_of_its_own(path: Path, contender: str) -> dict[str, str]:
    """Return what `run` does, with the classes of one of `CONTENDERS`."""
    command = [sys.executable, "-m", "tests.upstream", str(path), "--with", contender]
    done = subprocess.run(command, check=True, timeout=LONG, stdout=subprocess.PIPE, text=True)
    outcomes: dict[str, str] = json.loads(done.stdout)
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """Compare both; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="test/test_optim.py of PyTorch's source")
    parser.add_argument("--with", choices=CONTENDERS, dest="contender", help="print how it goes with one, as JSON")
    options = parser.parse_args(arguments)
    if options.contender:
        if options.contender == "fastadam.torch":
            put_ours()
        json.dump(run(options.path), sys.stdout)
        return 0
    theirs, ours = (in_process_of_its_own(options.path, contender) for contender in CONTENDERS)
    worse = [name for name, outcome in theirs.items() if outcome == "passed" != ours.get(name)]
    for kind in TESTS:
        names = [name for name in theirs if name.startswith(kind)]
        for contender, outcomes in zip(CONTENDERS, (theirs, ours), strict=True):
            passed, skipped = (sum(outcomes.get(name) == each for name in names) for each in ("passed", "skipped"))
            print(f"{kind:28s} {contender:15s} {passed} of {len(names)} pass, {skipped} need another machine")
    for name in worse:
        print(f"with torch's only: {name}: {ours.get(name, 'not there')}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
