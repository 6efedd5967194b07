"""What was measured, case by case: one curve for one benchmark with one choice of its parameters."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

NOTES = Path(__file__).parent / "notes.json"
HIGHER_IS_BETTER = re.compile(r"^bandwidth\.")  # of all others, less is better
FIRST = ("steps", "updates", "ratios", "loop")  # modules of the suite that are shown before the others
NOTICED = 0.2  # a share by which something is slower than it was at best


class Case(NamedTuple):
    """One curve.

    Attributes
    ----------
    benchmark, unit : str
        asv's name, and the unit of the values.
    params, choice : tuple of str
        What the benchmark's parameters are called, and the value of each.
    points : dict of float
        Value by commit, in the order of the history.
    """

    benchmark: str
    unit: str
    params: tuple[str, ...]
    choice: tuple[str, ...]
    points: dict[str, float]

    @property
    def name(self) -> str:
        """What notes are matched with."""
        return f"{self.benchmark}({', '.join(self.choice)})"

    @property
    def rises(self) -> bool:
        """Whether higher is better."""
        return bool(HIGHER_IS_BETTER.match(self.benchmark))

    @property
    def best(self) -> str:
        """The commit with the best value, the latest of them if there are several."""
        sign = -1 if self.rises else 1
        return min(reversed(self.points), key=lambda commit: sign * self.points[commit])

    @property
    def latest(self) -> str:
        """The last commit with a value."""
        return list(self.points)[-1]

    @property
    def worse(self) -> float:
        """By which share the latest value is worse than the best one."""
        best, latest = self.points[self.best], self.points[self.latest]
        above, below = (best, latest) if self.rises else (latest, best)
        return above / below - 1 if below else 0.0


class Note(NamedTuple):
    """What has to be known about the values of a commit.

    Attributes
    ----------
    commit : str
        Its full hash.
    kind : str
        "code", if the code explains the values; "measurement", if how they were measured does.
    cases : str
        A regular expression that finds the names of the cases it is about; an empty one if it is about all.
    text : str
        One or two sentences.
    """

    commit: str
    kind: str
    cases: str
    text: str

    def is_about(self, case: Case) -> bool:
        """Return whether it is about a value of this case in particular."""
        return self.cases != "" and self.commit in case.points and re.search(self.cases, case.name) is not None


def read_notes(path: Path = NOTES) -> list[Note]:
    """Return the notes of a file."""
    return [Note(**each) for each in json.loads(path.read_text(encoding="utf-8"))]


def read_cases(folder: Path, commits: list[str]) -> dict[str, list[Case]]:
    """Return the cases that a folder of asv's results has, by machine and environment.

    Parameters
    ----------
    folder : Path
        With asv's ``benchmarks.json``.
    commits : list of str
        The history; results of other commits are left out.
    """
    from asv.results import iter_results

    benchmarks = {
        name: each
        for name, each in json.loads((folder / "benchmarks.json").read_text()).items()
        if isinstance(each, dict)
    }
    found: dict[str, dict[tuple[str, tuple[str, ...]], dict[str, float]]] = {}
    for result in iter_results(str(folder)):
        if result.commit_hash not in commits:
            continue
        where = found.setdefault(_where(result), {})
        for name in result.get_result_keys(benchmarks):  # without those of another version of the benchmark
            params = result.get_result_params(name)
            choices = itertools.product(*params)
            for choice, value in zip(choices, result.get_result_value(name, params), strict=True):
                if isinstance(value, int | float) and math.isfinite(value):
                    case = where.setdefault((name, tuple(text.strip("'") for text in choice)), {})
                    case[result.commit_hash] = value
    return {
        place: [
            Case(
                name,
                benchmarks[name]["unit"],
                tuple(benchmarks[name]["param_names"]),
                choice,
                {commit: points[commit] for commit in commits if commit in points},
            )
            for (name, choice), points in sorted(cases.items(), key=lambda item: _order(benchmarks, *item[0]))
        ]
        for place, cases in found.items()
    }


def _where(result: Any) -> str:
    params = result.params
    requirements = ", ".join(
        f"{key} {value}" for key, value in sorted(params.items()) if key in ("numpy", "numba", "torch")
    )
    return f"{params.get('cpu') or params['machine']}, Python {params['python']}, {requirements}"


def _order(benchmarks: dict[str, Any], name: str, choice: tuple[str, ...]) -> tuple[int, str, list[int]]:
    """Return what sorts cases: those of times first, and each benchmark's as it lists its parameters."""
    module = name.partition(".")[0]
    params = [[text.strip("'") for text in values] for values in benchmarks[name]["params"]]
    places = [
        values.index(text) if text in values else len(values) for text, values in zip(choice, params, strict=False)
    ]
    return FIRST.index(module) if module in FIRST else len(FIRST), name, places
