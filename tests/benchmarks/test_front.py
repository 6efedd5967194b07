"""The dashboard's front page: which curves it has, which way is better, and notes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("asv", reason="asv is in the extra bench")

from benchmarks.dashboard import cases, front
from benchmarks.dashboard.cases import Case, Note

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
COMMITS = [front.Commit(letter * 40, "2026-01-01", f"commit <{letter}>") for letter in "abcd"]
NAMES = [commit.name for commit in COMMITS]


def case(values: list[float | None], name: str = "steps.Step.track_seconds", choice: str = "c") -> Case:
    points = {commit: value for commit, value in zip(NAMES, values, strict=False) if value is not None}
    return Case(name, "seconds", ("backend",), (choice,), points)


def committed() -> list[Case]:
    """Return the cases of the committed results, with commits in the order of their dates."""
    dates = {}
    for path in RESULTS.glob("*/*-virtualenv*.json"):
        result = json.loads(path.read_text())
        dates[result["commit_hash"]] = result["date"]
    places = cases.read_cases(RESULTS, sorted(dates, key=lambda commit: dates[commit]))
    return [each for place in places.values() for each in place]


# -------------------- what is read


def write(folder: Path, commit: str, params: list[list[str]], values: list[Any], version: str = "1") -> None:
    folder.joinpath("machine").mkdir(exist_ok=True)
    folder.joinpath("machine", "machine.json").write_text('{"machine": "machine", "version": 1}')
    folder.joinpath("benchmarks.json").write_text(
        json.dumps(
            {
                "s.S.track_x": {
                    "unit": "seconds",
                    "param_names": ["backend", "size"],
                    "params": [["'numpy'", "'c'"], ["1", "2"]],
                    "version": "1",
                    "name": "s.S.track_x",
                },
                "version": 2,
            }
        )
    )
    result = {
        "commit_hash": commit,
        "date": 0,
        "env_name": "env",
        "params": {"machine": "machine", "python": "3.11"},
        "python": "3.11",
        "requirements": {},
        "result_columns": ["result", "params", "version"],
        "results": {"s.S.track_x": [values, params, version]},
        "version": 2,
    }
    folder.joinpath("machine", f"{commit[:8]}-env.json").write_text(json.dumps(result))


def read(folder: Path) -> dict[tuple[str, ...], dict[str, float]]:
    (found,) = cases.read_cases(folder, NAMES).values()
    return {each.choice: each.points for each in found}


def test_a_new_case_moves_no_other_curve(tmp_path: Path) -> None:
    write(tmp_path, NAMES[0], [["'c'"], ["1"]], [3.0])
    before = read(tmp_path)
    write(tmp_path, NAMES[1], [["'numpy'", "'c'"], ["1", "2"]], [50.0, 60.0, 2.0, None])
    after = read(tmp_path)
    assert before == {("c", "1"): {NAMES[0]: 3.0}}
    assert list(after) == [("numpy", "1"), ("numpy", "2"), ("c", "1")]  # as the benchmark lists its parameters
    assert after["c", "1"] == {NAMES[0]: 3.0, NAMES[1]: 2.0}
    assert after["numpy", "1"] == {NAMES[1]: 50.0}


def test_values_of_another_version_or_history_are_left_out(tmp_path: Path) -> None:
    one = [["'c'"], ["1"]]
    write(tmp_path, NAMES[0], one, [3.0])
    write(tmp_path, NAMES[1], one, [float("nan")])
    write(tmp_path, NAMES[2], one, [4.0], version="0")
    write(tmp_path, "e" * 40, one, [5.0])
    assert read(tmp_path) == {("c", "1"): {NAMES[0]: 3.0}}


# -------------------- what is said


def test_which_way_is_better() -> None:
    slower, wider = case([1.0, 2.0, 1.5]), case([1.0, 2.0, 1.5], "bandwidth.Bandwidth.track_x")
    assert (slower.best, slower.worse) == (NAMES[0], 0.5)
    assert (wider.best, wider.worse) == (NAMES[1], pytest.approx(1 / 3))
    shown = front.page({"here": [slower, wider]}, COMMITS, [], "graphs.html")
    assert re.findall(r"(lower|higher) is better", shown) == ["lower", "higher"]
    assert "50% worse" in shown
    assert "33% worse" in shown


@pytest.mark.parametrize(
    ("values", "said"),
    [([2.0], "first value"), ([2.0, 1.0], "best"), ([1.0, 1.1], "within 20%"), ([1, 3], "200% worse")],
)
def test_the_latest_value_is_compared_with_the_best(values: list[float | None], said: str) -> None:
    assert said in front.page({"here": [case(values)]}, COMMITS, [], "graphs.html").partition("<section")[2]


def test_notes_stand_at_their_commits_and_beside_their_cases() -> None:
    notes = [
        Note(NAMES[1], "code", r"\(c\)", "slower & safer"),
        Note(NAMES[0], "measurement", "", "about all"),
        Note(NAMES[3], "code", r"\(c\)", "of a commit without a value"),
    ]
    shown = front.page(
        {"here": [case([1.0, 2.0]), case([1.0, 2.0], choice="numba")]}, COMMITS, notes, "graphs.html"
    )
    history, _, tables = shown.partition("<section")
    assert "[2] code:</b> slower &amp; safer" in history
    assert "[1] measurement:</b> about all" in history
    assert "commit &lt;b&gt;" in history
    assert re.findall(r'href="#(note-\d)"', tables) == ["note-2"]
    assert tables.count("class=noted") == 1


def test_values_have_units() -> None:
    assert front.readable_value(2.5e-6, "seconds") == "2.5 µs"
    assert front.readable_value(2**20, "bytes") == "1 MiB"
    assert front.readable_value(0.51234, "of torch fused's time") == "0.512"


# -------------------- what is committed


def test_every_committed_note_is_about_something() -> None:
    found, notes = committed(), cases.read_notes()
    measured = {commit for each in found for commit in each.points}
    for note in notes:
        assert note.commit in measured
        assert note.kind in ("code", "measurement")
        assert note.text
        assert note.cases == "" or any(note.is_about(each) for each in found), note


def test_every_committed_regression_is_explained() -> None:
    notes = cases.read_notes()
    open_ones = [
        each.name
        for each in committed()
        if each.worse > cases.NOTICED and not any(note.is_about(each) for note in notes)
    ]
    assert open_ones == [], f"explain them in {cases.NOTES}"
