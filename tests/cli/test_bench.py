"""``fastadam bench``: its table, its plot and what it refuses; no test depends on how fast anything is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fastadam.backends import c
from fastadam.cli import bench, measure
from fastadam.cli.app import app
from tests.cli.commands import WITHOUT, process, run, words
from tests.conftest import AVAILABLE
from tests.support.processes import LONG


@pytest.mark.usefixtures("alone")
def test_bench_prints_a_table_and_draws_a_plot(tmp_path: Path) -> None:
    plot = tmp_path / "bench.png"
    result = run("bench", "10", "1e3", "--like", "ppo", "--rounds", "2", "--threads", "1", "--plot", str(plot))
    text = words(result.stdout)
    assert "12 arrays, 9,155 parameters" in text
    assert "One array, 10 parameters" in text
    assert "One array, 1,000 parameters" in text
    assert "2 rounds, float32, at most 1 thread;" in text
    assert "without torch: not installed" in text
    for name in AVAILABLE:
        for layout in ("packed", "in place"):
            # A time with its unit, and the ratio to NumPy by hand.
            assert re.search(rf"{layout} {name} [\d.e+]+ (µs|ms|s) [\d.,]+ ", text), text
    assert re.search(r"NumPy by hand [\d.e+]+ (µs|ms|s) 1.00 ", text)
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bench_as_json(dtype: str) -> None:
    found = json.loads(
        run("bench", "100", "--rounds", "3", "--backend", "numpy", "--dtype", dtype, "--json").stdout
    )
    assert list(found) == ["fastadam", "dtype", "threads", "load_before", "left_out", "not_measured", "problems"]
    assert found["not_measured"] == {}
    assert found["dtype"] == dtype
    assert found["left_out"].items() >= {"torch": "not installed", "optax": "not installed"}.items()
    (problem,) = found["problems"]
    assert (problem["arrays"], problem["parameters"], problem["rounds"]) == (1, 100, 3)
    assert set(problem["contenders"]) == {"packed numpy", "in place numpy", "NumPy by hand"}
    for contender in problem["contenders"].values():
        assert set(contender) == {
            "seconds_per_step",
            "steps_timed_at_once",
            "seconds_to_first_step",
            "times_as_fast_as",
        }
        assert contender["seconds_per_step"]["median"] > 0
    base = problem["contenders"]["NumPy by hand"]["times_as_fast_as"]["NumPy by hand"]
    assert base == {"median": 1, "low": 1, "high": 1}


def test_bench_with_all_that_is_installed() -> None:
    done = process("bench", "1000", "--rounds", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    contenders = found["problems"][0]["contenders"]
    assert {f"packed {name}" for name in AVAILABLE} <= set(contenders)
    for peer, name in (("torch", "torch fused"), ("torch", f"fastadam.torch {AVAILABLE[0]}"), ("optax", "optax")):
        assert (name in contenders) != (found["left_out"].get(peer) == "not installed")


@pytest.mark.usefixtures("alone")
def test_bench_measures_compact_state_too() -> None:
    given = ["--state-dtype", "int8", "--state-dtype", "bfloat16", "--backend", "c", "--backend", "numba"]
    found = json.loads(run("bench", "1000", "--rounds", "2", *given, "--json").stdout)
    compiled = [name for name in AVAILABLE if name != "numpy"]
    wanted = {f"in place {name}, {state}" for name in compiled for state in ("int8", "bfloat16")}
    assert wanted <= set(found["problems"][0]["contenders"])


@pytest.mark.usefixtures("alone")
def test_bench_stops_when_the_time_is_up() -> None:
    text = run("bench", "10", "--rounds", "1000", "--seconds", "0", "--backend", "numpy").stdout
    assert f"{measure.LEAST_ROUNDS} rounds" in text


@pytest.mark.usefixtures("alone")
def test_bench_refuses_what_does_not_fit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    text = words(run("bench", "1e15", code=1).stderr)
    assert re.search(
        r"even in place \w+ alone would take about [\d,.]+ PiB, and bench uses at most [\d.]+ [MGT]iB", text
    )
    assert "choose a smaller size" in text
    monkeypatch.setattr(bench, "available", lambda: 100_000)
    assert "80% of the 97.7 KiB available" in words(run("bench", "1e4", code=1).stderr)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0"], "SIZES must be whole numbers of parameters from 1 on, such as 1000 or 1e6, got '0'"),
        (["-x"], "-x"),
        (["1.5"], "got '1.5'"),
        (["ten"], "got 'ten'"),
        (["10", "--state-dtype", "int4"], "'int4' is not one of 'float32', 'bfloat16', 'int8'"),
        (["10", "--threads", "0"], "threads must be from 1 to 256, got 0"),
        (["10", "--plot", "bench.txt"], "--plot must end in one of .png, .svg or .pdf, got 'bench.txt'"),
        (["10", "--plot", "no/such/folder/bench.png"], "there is no folder"),
    ],
)
def test_bench_refuses_wrong_values(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code in (1, 2)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert message in words(result.stderr)


def test_bench_says_why_a_backend_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "why_missing", lambda: "it was taken away")
    assert "--backend c is not available: it was taken away" in words(
        run("bench", "--backend", "c", code=1).stderr
    )


def test_bench_without_matplotlib(tmp_path: Path) -> None:
    code = "import typer, sys; sys.path.insert(0, sys.argv.pop()); from fastadam.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", "10", "--plot", str(tmp_path / "bench.png"), str(WITHOUT)],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 1
    assert "--plot needs matplotlib" in done.stderr
    assert "pip install 'fastadam[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_sizes_of_the_models() -> None:
    counts = {
        name: (len(make()), sum(int(np.prod(s)) for s in make())) for name, (_, make) in bench.MODELS.items()
    }
    assert counts == {
        "ppo": (12, 9_155),
        "tiny": (3000, 150_199),
        "mlp": (6, 669_706),
        "resnet50": (161, 25_557_032),
        "gpt2": (148, 124_439_808),
    }


@pytest.mark.parametrize(
    ("text", "number"), [("7", 7), ("1_000", 1000), ("1,000", 1000), ("2e3", 2000), ("1E3", 1000)]
)
def test_sizes_are_read(text: str, number: int) -> None:
    assert bench.read_size(text) == number


def test_every_contender_has_one_untimed_step_before_those_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(measure, "timed", lambda step, times: calls.append(f"timed {times}") or 1.0)

    def make(name: str) -> measure.Contender:
        return measure.Contender(lambda params, grads: lambda: calls.append(name), 1)

    problem = measure.Problem("one", [(3,)])
    measure.measure(problem, {"a": make("a"), "b": make("b")}, "float32", 2, 60, lambda _: None)
    rounds = calls[4:]
    assert calls[:4] == ["a", "timed 1", "b", "timed 1"]
    assert sorted(rounds[:4:2]) == sorted(rounds[4::2]) == ["a", "b"]
    assert rounds[1::2] == ["timed 1"] * 4
