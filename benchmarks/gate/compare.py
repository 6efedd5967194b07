"""Comparing two installed commits."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gate.install import GateError
from benchmarks.gate.rule import Verdict, judge, pair_ratio
from benchmarks.gate.worker import PLANT

WORKER = Path(__file__).parent / "worker.py"
PAIRS = 7  # of processes, each with memory of its own
ROUNDS = 25


class Side:
    """A process that takes steps with the package in a folder."""

    def __init__(self, package: Path, planted: float = 0, only: list[str] | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(package), PLANT: str(planted), "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *(only or [])],
            env=environment,
            cwd=package,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.package = package

    def greet(self) -> tuple[dict[str, int], dict[str, str]]:
        """Return how many steps make a turn, by case, and why cases were left out, once the process is ready."""
        hello = self._answer()
        found = hello["from"]
        if not Path(found).is_relative_to(self.package):
            raise GateError(f"{found} was measured instead of {self.package}: uninstall what comes before it")
        return hello["cases"], hello["left out"]

    def seconds(self, case: str, steps: int) -> float:
        """Take a turn; return the seconds of a step."""
        assert self.process.stdin is not None
        print(case, steps, file=self.process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise GateError(
                f"the process of {self.process.args!r} ended with code {self.process.wait()}; see above"
            )
        return json.loads(line)


def one_pair(
    base: Path, head: Path, planted: float, only: list[str] | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the ratio of each case in a new pair of processes, and why others were left out."""
    sides: list[Side] = []
    try:
        sides.append(Side(base, only=only))  # both get ready at the same time
        sides.append(Side(head, planted, only))
        (turns, left_out), (turns_of_head, left_out_of_head) = (side.greet() for side in sides)
        ratios = {}
        for case in [case for case in turns if case in turns_of_head]:
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(ROUNDS):
                for i in random.sample((0, 1), 2):  # so that none always follows the other
                    times[i].append(sides[i].seconds(case, turns[case]))
            ratios[case] = pair_ratio(*times)
        left_out |= left_out_of_head
        return ratios, left_out
    finally:
        for side in sides:
            side.close()


def compare(
    base: Path, head: Path, tolerance: float, planted: float = 0
) -> tuple[dict[str, Verdict], dict[str, str]]:
    """Return the verdict on each case, and why others were left out.

    What seems slower is measured once more, with new processes; only if it is slower again, it counts.
    """
    verdicts, left_out = measured(base, head, tolerance, planted, None)
    doubtful = [case for case, verdict in verdicts.items() if verdict.slower]
    if doubtful:
        verdicts |= measured(base, head, tolerance, planted, doubtful)[0]
    return verdicts, left_out


def measured(
    base: Path, head: Path, tolerance: float, planted: float, only: list[str] | None
) -> tuple[dict[str, Verdict], dict[str, str]]:
    """Return the verdict on each case (or those in `only`) from new pairs of processes."""
    found: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    for _ in range(PAIRS):
        ratios, left_out = one_pair(base, head, planted, only)
        for case, ratio in ratios.items():
            found.setdefault(case, []).append(ratio)
    return {case: judge(ratios, tolerance) for case, ratios in found.items()}, left_out
