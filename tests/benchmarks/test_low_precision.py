"""The trainings of benchmarks/low_precision run in every setting, and the page says what the results do."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.foreign import library

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = json.loads((DOCS / "low_precision.json").read_text())
PAGE = (DOCS / "guides" / "low-precision.md").read_text()
# What each task needs, and its shortest training.
NEEDS = {"ppo": "gymnasium", "digits": "sklearn", "transformer": "torch", "failures": "sklearn"}
SHORTEST: dict[str, dict[str, int]] = {
    "ppo": {"steps": 10240},
    "digits": {"epochs": 1},
    "transformer": {"steps": 2},
    "failures": {"epochs": 1},
}
# Those that are worse, which the page says.
WORSE = ("nearest", "all bfloat16, nearest")


def part(name: str) -> Any:
    """Return a module of the benchmark; it needs the C backend, and ml_dtypes."""
    library("ml_dtypes")
    if fastadam.available_backends()["c"] != "available":
        pytest.skip("the C backend is not available")
    return importlib.import_module(f"benchmarks.low_precision.{name}")


@pytest.mark.parametrize("task", NEEDS)
def test_every_setting_trains(task: str) -> None:
    library(NEEDS[task])
    module = part(task)
    with np.errstate(all="ignore"):
        found = {name: module.train(each, 0, **SHORTEST[task]) for name, each in module.SETTINGS.items()}
    assert set(found) == set(RESULTS["runs"][task])
    finite = {name: run for name, run in found.items() if name != "int8 state, zero roots"}
    assert all(np.isfinite([run.final, *run.curve]).all() for run in finite.values())
    # The same seed, so that what is not nearly the same start is a mistake.
    starts = [run.curve[0] for run in finite.values()]
    assert max(starts) <= 1.25 * min(starts)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    library("sklearn")
    runs = part("runs")
    path, said = tmp_path / "results.json", list[str]()
    digits = {"float32": {"0": {"final": 1.0, "curve": [2.0, 1.0]}}}
    runs.save({"runs": {"digits": digits}, "memory": {}}, path)
    before = dict(os.environ)
    runs.train_all([runs.Job("digits", name, 0) for name in ("float32", "int8 state")], path, 1, said.append)
    assert dict(os.environ) == before
    found = runs.load(path)
    assert found["memory"] == {}
    assert found["runs"]["digits"]["float32"] == digits["float32"]
    assert len(found["runs"]["digits"]["int8 state"]["0"]["curve"]) == part("digits").EPOCHS
    assert [each.partition(",")[0] for each in said] == ["1 of 1: digits"]


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_memory_is_measured() -> None:
    memory = part("memory")
    size = 2**22
    plain, compact = (memory.measure(name, size) for name in ("float32", "int8 state"))
    assert plain["weight"] == pytest.approx(4, abs=1)
    assert plain["optimizer"] - compact["optimizer"] > 4


def test_the_page_has_the_table_of_the_results() -> None:
    tables = part("tables")
    assert tables.table(RESULTS) in PAGE
    words = " ".join(PAGE.split())
    assert f" {tables.seeds(RESULTS)};" in words
    assert f" {tables.exploded(RESULTS)}." in words
    assert f" {tables.jumps(RESULTS)};" in words


def test_the_results_are_what_the_page_claims() -> None:
    tables = part("tables")
    runs, memory = RESULTS["runs"], RESULTS["memory"]
    for task, setting in itertools.product(tables.TASKS, tables.ROWS):
        assert len(runs[task][setting]) >= 5
        assert tables.is_within(runs, task, setting) == (setting not in WORSE), (task, setting)
    assert memory["float32"]["optimizer"] == pytest.approx(8, abs=0.05)
    assert memory["bfloat16 state"]["optimizer"] == pytest.approx(4, abs=0.05)
    assert memory["int8 state"]["optimizer"] <= 2.2
    masters = sum(memory["masters"].values()) - memory["float32"]["optimizer"]
    assert masters == pytest.approx(4, abs=0.05)
    assert RESULTS["jumps"]["largest"] < 12


def test_the_failures_are_what_the_page_claims() -> None:
    tables = part("tables")
    runs = RESULTS["runs"]
    means = {
        name: np.mean(tables.finals(runs, "failures", name)) for name in runs["failures"] if "zero" not in name
    }
    usual = means.pop("float32")
    assert 1.7 < means.pop("bfloat16 state, nearest") / usual < 2
    assert len(means) == 3
    assert all(tables.is_within(runs, "failures", name) for name in means)
