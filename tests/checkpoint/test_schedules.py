"""Schedules in checkpoints: saved by their definitions, and read where they fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.schedules import Constant, Cosine, Join, Step, Warmup

safetensors = pytest.importorskip("safetensors")
numpy_files = pytest.importorskip("safetensors.numpy")

SCHEDULES = [
    Warmup(Cosine(0.1, 100, end=1e-3), 10),
    Join([Step(0.3, {3: 0.1}), 0.01], [7]),
    Constant(0.5),
]


def make(lr: Any, **options: Any) -> fastadam.Adam:
    return fastadam.Adam({"w": np.ones(3)}, lr=lr, **options)


def metadata_of(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="np") as file:
        return dict(file.metadata())


def rewrite(path: Path, **changes: str | None) -> None:
    """Write the file anew with other metadata; None takes an entry out."""
    metadata = {**metadata_of(path), **changes}
    kept = {key: value for key, value in metadata.items() if value is not None}
    numpy_files.save_file(numpy_files.load_file(path), path, kept)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("before", [0.25, Constant(0.1), lambda step: 0.1], ids=["number", "schedule", "function"])
def test_a_schedule_comes_back(tmp_path: Path, schedule: Any, before: Any) -> None:
    first, second = make(schedule), make(before)
    for _ in range(5):
        first.step({"w": np.ones(3)})
    fastadam.save(tmp_path / "run", first)
    assert "note" not in metadata_of(tmp_path / "run")
    fastadam.load(tmp_path / "run", second)
    assert second.param_groups[0]["lr"] == schedule
    for optimizer in (first, second):
        for _ in range(10):
            optimizer.step({"w": np.full(3, 0.3)})
    for name in ("exp_avg", "exp_avg_sq"):
        assert first.state["w"][name].tobytes() == second.state["w"][name].tobytes()
    assert first.param_groups[0]["params"][0].tobytes() == second.param_groups[0]["params"][0].tobytes()


def test_each_group_has_its_own(tmp_path: Path) -> None:
    def function(step: int) -> float:
        return 0.1 / step

    class Mine(Constant):
        __slots__ = ()

    rates = [0.5, SCHEDULES[0], function, Mine(0.2)]
    first, second = (
        fastadam.Adam([{"params": [np.ones(2)], "lr": lr} for lr in given]) for given in (rates, [function] * 4)
    )
    first.param_groups[0]["lr"] = SCHEDULES[1]  # edited, and not yet used
    fastadam.save(tmp_path / "run", first)
    assert "lr is null" in metadata_of(tmp_path / "run")["note"]
    fastadam.load(tmp_path / "run", second)
    assert [group["lr"] for group in second.param_groups] == [SCHEDULES[1], SCHEDULES[0], function, function]


def test_files_without_schedules_load_as_ever(tmp_path: Path) -> None:
    fastadam.save(tmp_path / "run", make(0.5))
    assert "schedules" not in metadata_of(tmp_path / "run")
    fastadam.save(tmp_path / "run", make(SCHEDULES[0]))
    rewrite(tmp_path / "run", schedules=None)  # as a version that knows none sees it
    with pytest.raises(ValueError, match="lr was a function, which the file does not hold"):
        fastadam.load(tmp_path / "run", make(0.5))
    optimizer = make(SCHEDULES[1])
    fastadam.load(tmp_path / "run", optimizer)
    assert optimizer.param_groups[0]["lr"] == SCHEDULES[1]


@pytest.mark.parametrize(
    ("schedules", "message"),
    [
        ("{", "'schedules' in its metadata is no JSON"),
        ("{}", "'schedules' in its metadata is no list with an entry for each group"),
        ("[null, null]", "'schedules' in its metadata is no list with an entry for each group"),
        (
            "[3]",
            r"schedules\[0\] in its metadata is none that this version of fastadam knows: .*must be a mapping",
        ),
        ('[{"type": "Sine"}]', r"schedules\[0\] .*there is no schedule 'Sine'"),
        ('[{"type": "Constant", "value": -1}]', r"schedules\[0\] .*value must be at least 0, got -1"),
        ('[{"type": "Constant", "value": 1e999}]', "1e999 is not finite"),
    ],
)
def test_damage_is_refused(tmp_path: Path, schedules: str, message: str) -> None:
    fastadam.save(tmp_path / "run", make(SCHEDULES[0]))
    rewrite(tmp_path / "run", schedules=schedules)
    optimizer = make(0.25)
    with pytest.raises(ValueError, match=message):
        fastadam.load(tmp_path / "run", optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_a_number_and_a_schedule_contradict_each_other(tmp_path: Path) -> None:
    fastadam.save(tmp_path / "run", make(0.5))
    rewrite(tmp_path / "run", schedules=json.dumps([SCHEDULES[0].to_dict()]))
    with pytest.raises(ValueError, match=r"param_groups\[0\] in its metadata has a number and a schedule for lr"):
        fastadam.load(tmp_path / "run", make(0.5))
