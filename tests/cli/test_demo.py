"""``fastadam demo``: what it trains, draws and says; no test depends on how fast anything is."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fastadam.cli import demo, terminal
from fastadam.cli.demo import drawing, speed
from fastadam.cli.demo.spiral import ARMS, STEPS, Training
from tests.cli.commands import process, run, words
from tests.conftest import AVAILABLE
from tests.support.processes import LONG
from tests.support.strategies import examples

MEDIANS = {
    "packed c": 5e-6,
    "in place c": 6e-6,
    "fastadam.torch c": 1e-5,
    "torch fused": 9e-6,
    "torch default": 1.5e-4,
    "NumPy by hand": 5.1e-6,
}


def problem(medians: dict[str, float] = MEDIANS, *, busy: bool = False, arrays: int = 12) -> dict[str, Any]:
    contenders = {name: {"seconds_per_step": {"median": median}} for name, median in medians.items()}
    machine = {"busy": busy, "used_by_others": 1.5}
    return {"arrays": arrays, "parameters": 9155, "contenders": contenders, "machine": machine}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have speeds that are given instead of measured, and all the time for a few steps of training."""
    found = {"problems": [problem()], "left_out": {}}
    monkeypatch.setattr(speed, "measure", lambda backend, seconds: speed.Speed(found))
    monkeypatch.setattr(demo, "Training", lambda backend: Training(backend, steps=5))


@pytest.fixture(scope="module")
def trained() -> Training:
    training = Training("numpy", steps=1000)
    demo.train(training, float("inf"), None)
    return training


# -------------------- training


def test_the_network_learns(trained: Training) -> None:
    assert len(trained.losses) == 1000
    assert trained.losses[0] > 1.0 > 0.75 > demo.loss_now(trained)
    assert trained.accuracy() > 0.6
    assert trained.in_optimizer > 0


def test_gradients_are_those_of_the_loss() -> None:
    training = Training("numpy")
    network = training.network
    flat = network.flat

    def loss() -> float:
        right = network.forward(training.points)[3][np.arange(training.arm.size), training.arm]
        return float(-np.log(right.astype(np.float64)).mean())

    training.step()
    network.backward(network.forward(training.points), training.arm)
    for direction in np.random.default_rng(1).standard_normal((3, flat.param.size)).astype(np.float32):
        slope, before = float(direction @ flat.grad), flat.param.copy()
        flat.param[...] = before + 1e-3 * direction
        above = loss()
        flat.param[...] = before - 1e-3 * direction
        assert (above - loss()) / 2e-3 == pytest.approx(slope, rel=0.02, abs=1e-3)
        flat.param[...] = before


def test_where_the_time_is_up_it_is_said_and_one_step_is_taken_at_least() -> None:
    training = Training("numpy")
    took = demo.train(training, 0.0, None)
    assert len(training.losses) == 1
    assert f"The time was up after 1 of {STEPS:,} steps" in demo.trained_in_words(training, took)
    whole = Training("numpy", steps=1)
    assert "The time was up" not in demo.trained_in_words(whole, demo.train(whole, 0.0, None))


# -------------------- what is drawn


@pytest.mark.parametrize(("width", "height"), [(20, 24), (40, 5), (40, 24), (69, 24), (80, 5), (200, 60)])
@pytest.mark.parametrize("coloured", [True, False])
def test_a_frame_fits_into_the_terminal(trained: Training, width: int, height: int, coloured: bool) -> None:
    training = Training("numpy", steps=40)
    demo.train(training, float("inf"), None)
    console = Console(
        width=width, height=height, force_terminal=True, color_system="truecolor", no_color=not coloured
    )
    with console.capture() as capture:
        console.print(demo.frame(training, console))
    lines = re.sub(r"\x1b\[[\d;]*m", "", capture.get()).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 16)
    assert ("\x1b[38;2;" in capture.get()) == coloured
    assert "100.0% right" not in capture.get() or training.accuracy() > 0.999


def test_without_colour_each_arm_has_a_sign_of_its_own() -> None:
    shares = np.zeros((4, 3, ARMS))
    shares[:2, np.arange(3), np.arange(3)] = 1
    shares[2:, :, 2] = 1
    for unicode, expected in ((True, ["░▒█", "███"]), (False, [".+#", "###"])):
        points, arm = np.zeros((1, 2)), np.zeros(1, int)
        lines = drawing.decision_map(shares, points, arm, coloured=False, unicode=unicode)
        assert [line.plain for line in lines] == expected


def test_with_colour_points_are_brighter_than_what_is_decided() -> None:
    shares = np.full((4, 4, ARMS), 1 / ARMS)
    lines = drawing.decision_map(shares, np.array([[-0.9, 0.9]]), np.array([1]), coloured=True, unicode=True)
    colours = [span.style.color.triplet for span in lines[0].spans]
    assert len(lines) == 2
    assert max(colours[0]) > max(colours[1]) > 0
    assert colours[1] == colours[2]


@given(
    st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=50),
    st.integers(0, 50),
    st.integers(1, 30),
    st.integers(1, 8),
)
@examples(50)
def test_a_curve_has_its_size_and_begins_at_the_left(
    values: list[float], later: int, columns: int, lines: int
) -> None:
    for unicode in (True, False):
        drawn = drawing.curve(values, len(values) + later, columns, lines, unicode=unicode)
        assert len(drawn) == lines
        plots = [line.plain[-columns:] for line in drawn]
        assert any(plot[0] not in " \u2800" for plot in plots)
        assert unicode or set("".join(plots)) <= {" ", "*"}
        if not later:
            assert any(plot[-1] not in " \u2800" for plot in plots)


def test_a_falling_curve_falls() -> None:
    drawn = drawing.curve([100.0, 10.0, 1.0], 3, 3, 3, unicode=False)
    assert [line.plain for line in drawn] == ["  1e+02 *  ", "         * ", "      1   *"]


@given(st.floats(0, 1), st.integers(1, 60))
@examples(50)
def test_a_bar_fits_and_is_never_empty(share: float, columns: int) -> None:
    assert 1 <= len(drawing.bar(share, columns, unicode=True)) <= columns
    assert 1 <= len(drawing.bar(share, columns, unicode=False)) <= columns


# -------------------- what is said


def test_times_are_compared_with_like_ones() -> None:
    numpy, torch = speed.in_words(problem())
    assert numpy == (
        "A step over the two networks of PPO (12 arrays, 9,155 parameters) takes 5 µs here. "
        "Adam by hand in NumPy takes 5.1 µs, about as long."
    )
    assert torch == (
        "In PyTorch it takes 10 µs with fastadam.torch. torch's own Adam takes 150 µs, 15.0 times as long, "
        "and with fused=True 9 µs, only 0.90 times as long."
    )


def test_without_torch_nothing_is_said_of_it() -> None:
    medians = {"packed numpy": 1e-4, "NumPy by hand": 3e-4}
    (said,) = speed.in_words(problem(medians, arrays=1))
    assert "one large array (9,155 parameters) takes 100 µs here" in said
    assert "300 µs, 3.00 times as long" in said


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("columns", ["40", "80"])
def test_all_of_it_as_text(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = run("demo").stdout
    text = words(out)
    assert max(map(len, out.splitlines())) <= int(columns)
    assert "took 5 steps in" in text
    assert "In PyTorch it takes 10 µs with fastadam.torch." in text
    assert "\x1b" not in out
    assert ("The fastest backend is missing" in text) == ("c" not in AVAILABLE)


@pytest.mark.usefixtures("quick")
def test_what_was_busy_or_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"problems": [problem(busy=True)], "left_out": {"torch": "not installed"}}
    monkeypatch.setattr(speed, "measure", lambda backend, seconds: speed.Speed(found, "the time was up"))
    text = words(run("demo").stdout)
    assert "The machine was busy meanwhile (others used 1.5 of its processors)" in text
    assert "PyTorch is not installed here" in text
    assert "The rest was not measured: the time was up." in text


@pytest.mark.usefixtures("quick")
def test_as_json() -> None:
    found = json.loads(run("demo", "--json").stdout)
    assert list(found) == ["fastadam", "training", "speed", "speed_missing"]
    assert found["training"]["steps"] == found["training"]["steps_planned"] == 5
    assert found["training"]["loss_last"] > 0
    assert found["speed"]["problems"] == [problem()]
    assert found["speed_missing"] is None


def test_without_time_little_is_done_and_said() -> None:
    """In a process of its own, as a pipe gets it, in a terminal with nothing but ASCII."""
    done = process("demo", "--seconds", "0", PYTHONIOENCODING="ascii", COLUMNS="40", NO_COLOR="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stderr == ""
    text = words(done.stdout)
    assert f"The time was up after 1 of {STEPS:,} steps" in text
    assert re.search(r"Adam's part of it: [\d.]+ (us|ms|s) a step", text)
    assert "was not measured: no time was left for it" in text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("where", ["training", "measuring"])
def test_an_interrupt_ends_it_with_one_line(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if where == "training":
        monkeypatch.setattr(Training, "step", interrupt)
    else:
        monkeypatch.setattr(speed, "measure", interrupt)
    result = run("demo", code=130)
    assert result.stderr == "fastadam demo: stopped\n"


# -------------------- the process that measures


def printed(*titles: str) -> str:
    return " ".join(json.dumps({"problems": [{"title": title}], "of": title}) for title in titles)


def titles(found: speed.Speed) -> list[str]:
    return [each["title"] for each in found.found["problems"]] if found.found else []


def test_the_speed_is_measured_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "PROBLEMS", (["10"], ["1e2"]))
    monkeypatch.setattr(speed, "OPTIONS", [*speed.OPTIONS, "--without", "torch", "--rounds", "1"])
    found, missing = speed.measure("numpy", LONG)
    assert missing == ""
    assert found is not None
    assert [each["parameters"] for each in found["problems"]] == [10, 100]
    assert set(speed.times(found["problems"][0])) >= {"fastadam", "NumPy by hand"}


def test_a_problem_counts_as_it_was_measured_last() -> None:
    first, second = ({"problems": [{"title": "a", "turn": turn}], "left_out": turn} for turn in (1, 2))
    assert speed.merged([first, second]) == second
    assert speed.merged([]) is None


@pytest.mark.parametrize(
    ("text", "end", "measured", "missing"),
    [
        (printed("a", "b", "c"), "raise SystemExit(1)", ["a", "b", "c"], ""),
        (
            printed("a") + ' {"pro',
            "raise SystemExit('error: broken')",
            ["a"],
            "broken; fastadam doctor may know more",
        ),
        ("", "raise ImportError('none')", [], "ImportError: none; fastadam doctor may know more"),
        ("", "raise SystemExit(3)", [], "exit code 3; fastadam doctor may know more"),
    ],
)
def test_what_was_measured_before_the_process_ended_is_kept(
    monkeypatch: pytest.MonkeyPatch, text: str, end: str, measured: list[str], missing: str
) -> None:
    monkeypatch.setattr(speed, "CHILD", f"print({text!r}); {end}".replace("{", "{{").replace("}", "}}"))
    found = speed.measure("numpy", LONG)
    assert titles(found) == measured
    assert found.missing == missing


def test_what_was_measured_before_the_time_was_up_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    output: list[bytes | None] = [None, printed("a").encode() + b' {"prob', printed("a", "b", "c").encode()]

    def time_is_up(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout, output=output.pop(0))

    monkeypatch.setattr(speed.subprocess, "run", time_is_up)
    late = "the time was up after 9 s"
    assert speed.measure("numba", 9) == (None, f"{late} (Numba compiles at its first use); try fastadam bench")
    found = speed.measure("c", 9)
    assert (titles(found), found.missing) == (["a"], f"{late}; try fastadam bench")
    found = speed.measure("c", 9)
    assert (titles(found), found.missing) == (["a", "b", "c"], "")


def test_a_wrong_setting_is_named() -> None:
    done = process("demo", FASTADAM_NUM_THREADS="many")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"error: FASTADAM_NUM_THREADS must be a number.*\n", done.stderr)


def test_signs_that_a_terminal_lacks_are_spelled() -> None:
    assert terminal.console() is not None  # makes the error handler known
    assert "5 µs × ⣀".encode("ascii", "fastadam") == b"5 us x ?"
