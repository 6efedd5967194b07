"""The command line: what each command prints, and how it says no. No test depends on how fast anything is."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fastadam
from fastadam.backends import HOST, c
from fastadam.backends import numba as numba_cpu
from fastadam.cli import bench, doctor, info, measure, memory, shapes
from fastadam.cli.app import Backend, Model, Peer, app
from fastadam.memory.cuda import available as cuda_devices
from fastadam.step import threads
from tests.conftest import AVAILABLE

LONG = 240  # seconds that no process comes near to, unless it hangs
WITHOUT = Path(__file__).parents[1] / "support" / "without_cli"
STEERING = ("NUMBA_", "FASTADAM_", "OMP_")

needs_c = pytest.mark.skipif("c" not in AVAILABLE, reason="the C extension is not available")


def run(*arguments: str, code: int = 0) -> Any:
    """Run a command in this process; fail if it ends with another exit code."""
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def words(text: str) -> str:
    """Return the text with every run of blanks as one: lines break where the terminal is narrow."""
    return " ".join(text.split())


def process(*arguments: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(STEERING)}
    if path is not None:
        inherited["PYTHONPATH"] = os.pathsep.join(filter(None, [str(path), inherited.get("PYTHONPATH", "")]))
    return subprocess.run(
        [sys.executable, "-m", "fastadam", *arguments],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out torch and optax: JAX, once imported, warns of every fork of this process."""
    find = importlib.util.find_spec
    hidden = set(bench.PEERS)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name in hidden else find(name))


# -------------------- the face


def test_help_names_all_commands() -> None:
    text = run("--help").output
    assert all(re.search(rf"(?m)^\W*{command}\b", text) for command in ("info", "bench", "doctor"))
    assert run("--version").output.strip() == f"fastadam {fastadam.__version__}"


def test_choices_are_those_of_the_library() -> None:
    assert [each.value for each in Backend] == list(HOST)
    assert [each.value for each in Model] == list(bench.MODELS)
    assert [each.value for each in Peer] == list(bench.PEERS)


def test_wrong_arguments_are_refused() -> None:
    assert "--like" in run("bench", "--like", "nothing", code=2).output
    run("nothing", code=2)


def test_without_the_extra_there_is_one_sentence() -> None:
    for arguments in ([], ["info"], ["bench", "--help"]):
        done = process(*arguments, path=WITHOUT)
        assert done.returncode == 1
        assert done.stdout == ""
        assert re.fullmatch(r"fastadam: .*needs typer and rich.*pip install 'fastadam\[cli\]'\n", done.stderr)


def test_the_library_imports_none_of_it() -> None:
    code = "import sys, fastadam; print(sorted({'typer', 'rich', 'click', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG, check=True)
    assert done.stdout == "[]\n"


# -------------------- info


def test_info_as_json() -> None:
    found = json.loads(run("info", "--json").stdout)
    assert list(found) == [
        "fastadam",
        "python",
        "system",
        "packages",
        "backends",
        "auto",
        "threads",
        "c",
        "numba",
        "huge_pages",
        "cuda",
    ]
    assert found["fastadam"] == fastadam.__version__
    assert found["packages"]["numpy"] == np.__version__
    assert found["backends"] == fastadam.available_backends()
    assert found["auto"] == AVAILABLE[0]
    assert found["threads"]["limit"] == threads.default_limit()
    assert found["c"]["instruction_sets"] == list(c.instruction_sets())
    assert set(found["numba"]) == {"threading_layer", "cache"}
    assert bool(found["cuda"]["devices"]) == (found["cuda"]["reason"] is None)


def test_info_as_text() -> None:
    text = words(run("info").stdout)
    assert f"fastadam {fastadam.__version__}" in text
    for name, state in fastadam.available_backends().items():
        assert f"{name} available" in text if state == "available" else f"{name} missing" in text
    assert "huge pages" in text


@pytest.mark.parametrize(
    ("environment", "limit", "source"),
    [
        ({"FASTADAM_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}, 3, "FASTADAM_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "1"}, 1, "OMP_NUM_THREADS"),
    ],
)
def test_info_says_where_the_limit_of_threads_comes_from(
    environment: dict[str, str], limit: int, source: str
) -> None:
    done = process("info", "--json", **environment)
    found = json.loads(done.stdout)["threads"]
    assert (found["limit"], found["source"], found["error"]) == (limit, source, None)


def test_info_goes_on_with_wrong_settings() -> None:
    done = process("info", FASTADAM_NUM_THREADS="many", FASTADAM_INSTRUCTION_SET="mmx")
    assert done.returncode == 0, done.stderr
    assert "must be a number from 1 to 256, got 'many'" in words(done.stdout)


def test_info_says_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        """A driver that answers with these codes, and has one device."""

        def __init__(self, started: int, count: int) -> None:
            self.started, self.count = started, count

        def cuInit(self, flags: int) -> int:  # noqa: N802 - CUDA's names
            return self.started

        def cuDeviceGetCount(self, place: Any) -> int:  # noqa: N802
            place._obj.value = self.count
            return 0

        def cuDeviceGet(self, place: Any, ordinal: int) -> int:  # noqa: N802
            return 0

        def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802
            name.value = b"A device"
            return 0

    def missing(name: str) -> None:
        raise OSError(name)

    def names(driver: Callable[[str], object]) -> tuple[list[str], str | None]:
        monkeypatch.setattr(cuda_devices.ctypes, "CDLL", driver)
        return cuda_devices.devices()

    assert names(lambda _: Driver(0, 1)) == (["A device"], None)
    assert "A device" in run("info").stdout
    assert names(lambda _: Driver(0, 0)) == ([], "the NVIDIA driver finds no device")
    assert names(lambda _: Driver(100, 0)) == ([], "the NVIDIA driver finds no device")
    assert "error 999" in str(names(lambda _: Driver(999, 0))[1])
    assert "no NVIDIA driver" in str(names(missing)[1])


def test_huge_pages_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(info, "HUGE_PAGES", tmp_path / "enabled")
    assert info.huge_pages() is None
    (tmp_path / "enabled").write_text("always [madvise] never\n")
    assert info.huge_pages() == "madvise"


# -------------------- bench


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
    assert list(found) == ["fastadam", "dtype", "threads", "load_before", "left_out", "problems"]
    assert found["dtype"] == dtype
    assert found["left_out"].items() >= {"torch": "not installed", "optax": "not installed"}.items()
    (problem,) = found["problems"]
    assert (problem["arrays"], problem["parameters"], problem["rounds"]) == (1, 100, 3)
    assert set(problem["contenders"]) == {"packed numpy", "in place numpy", "NumPy by hand"}
    for contender in problem["contenders"].values():
        assert set(contender) == {"seconds_per_step", "steps_timed_at_once", "times_as_fast_as"}
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
def test_bench_stops_when_the_time_is_up() -> None:
    text = run("bench", "10", "--rounds", "1000", "--seconds", "0", "--backend", "numpy").stdout
    assert f"{measure.LEAST_ROUNDS} rounds" in text


@pytest.mark.usefixtures("alone")
def test_bench_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = words(run("bench", "1e15", code=1).stderr)
    assert re.search(r"would take about [\d,.]+ PiB, and [\d.]+ [MGT]iB are available", text), text
    assert "choose a smaller size" in text
    monkeypatch.setattr(bench, "available", lambda: 100_000)
    assert "97.7 KiB are available" in words(run("bench", "1e4", code=1).stderr)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0"], "SIZES must be whole numbers of parameters from 1 on, such as 1000 or 1e6, got '0'"),
        (["-x"], "-x"),
        (["1.5"], "got '1.5'"),
        (["ten"], "got 'ten'"),
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
        "mlp": (6, 669_706),
        "resnet50": (161, 25_557_032),
        "gpt2": (148, 124_439_808),
    }
    assert len(shapes.tiny_tensors()) == 3000


@pytest.mark.parametrize(
    ("text", "number"), [("7", 7), ("1_000", 1000), ("1,000", 1000), ("2e3", 2000), ("1E3", 1000)]
)
def test_sizes_are_read(text: str, number: int) -> None:
    assert bench.read_size(text) == number


def test_ratios_are_medians_of_ratios_within_a_round() -> None:
    problem = measure.Problem("two", [(1,)])
    result = measure.Result(problem, {"a": [1.0, 10.0, 3.0], "b": [2.0, 5.0, 1.0]}, {"a": 1, "b": 1})
    assert result.ratio("a", "b").median == 2.0  # of 0.5, 2 and 3; the ratio of the medians is 1.5
    assert result.rounds == 3


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


def test_memory_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / name for name in ("limit", "used", "statistics")]
    monkeypatch.setattr(memory, "CONTROL_GROUPS", (tuple(map(str, paths)),))
    without = memory.available()
    for path, text in zip(paths, ("3000", "2500", "active_file 7\ninactive_file 400\n"), strict=True):
        path.write_text(text)
    assert memory.available() == 900
    paths[0].write_text("max")
    assert (memory.available() is None) == (without is None)


# -------------------- doctor


def checks(code: int) -> dict[str, dict[str, Any]]:
    found = json.loads(run("doctor", "--json", code=code).stdout)
    assert found["ok"] == (code == 0)
    assert all(list(check) == ["check", "ok", "text", "remedy"] for check in found["checks"])
    return {check["check"]: check for check in found["checks"]}


def test_doctor_finds_all_well_or_what_is_missing() -> None:
    found = checks(0 if len(AVAILABLE) == len(HOST) else 1)
    assert found["C extension"]["ok"] == ("c" in AVAILABLE)
    assert found["Numba"]["ok"] == ("numba" in AVAILABLE)
    for name in AVAILABLE:
        assert found[f"steps of {name}"]["ok"]
    for check in found.values():
        assert bool(check["remedy"]) != check["ok"]


def test_doctor_as_text() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == (0 if len(AVAILABLE) == len(HOST) else 1)
    text = words(result.stdout)
    assert "All is well." in text or "attention." in text
    assert "denormal numbers kept in this process" in text


@needs_c
def test_doctor_finds_a_backend_with_other_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    bind = c.bind

    def bind_wrongly(plan: Any) -> Callable[[int], int]:
        step = bind(plan)

        def run(check: int) -> int:
            plan.rows["beta1"] = np.nextafter(np.float32(0.9), np.float32(1))
            return step(check)

        return run

    monkeypatch.setattr(c, "bind", bind_wrongly)
    found = checks(1)
    assert "differ from the reference's" in found["steps of c"]["text"]
    assert found["steps of c"]["remedy"]
    assert found["steps of numpy"]["ok"]


@needs_c
def test_doctor_finds_a_backend_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(plan: Any) -> None:
        raise RuntimeError("no step today")

    monkeypatch.setattr(c, "bind", bind)
    found = checks(1)["steps of c"]
    assert found["text"] == "the check broke off: RuntimeError: no step today"


@needs_c
def test_doctor_finds_an_extension_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(c.STRUCTS, "fastadam_span", np.dtype([("param", np.int64)]))
    monkeypatch.setattr(c, "why_missing", c.why_missing.__wrapped__)
    assert "built from another source" in checks(1)["C extension"]["text"]
    monkeypatch.undo()
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "0.0.1")
    assert "the version installed is 0.0.1" in checks(1)["version"]["text"]


def test_doctor_says_why_a_backend_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c, "why_missing", lambda: "the C extension was not built; install a C compiler")
    found = checks(1)["C extension"]
    assert (found["text"], found["remedy"]) == ("the C extension was not built", "install a C compiler")
    text = words(run("doctor", code=1).stdout)
    assert "-> install a C compiler" in text


@pytest.mark.skipif("numba" not in AVAILABLE, reason="Numba is not available")
def test_doctor_finds_no_folder_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    assert numba_cpu.cache_folder()
    monkeypatch.setattr(numba_cpu, "cache_folder", lambda: None)
    assert "NUMBA_CACHE_DIR" in checks(1)["Numba's cache"]["remedy"]


def test_doctor_finds_flushed_denormals() -> None:
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        found = doctor._denormals()
    finally:
        torch.set_flush_denormal(False)
    assert not found.ok
    assert doctor._denormals().ok


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"FASTADAM_NUM_THREADS": "many"}, "FASTADAM_NUM_THREADS must be a number from 1 to 256, got 'many'"),
        ({"OMP_NUM_THREADS": "all"}, "OMP_NUM_THREADS is 'all', which is no number of threads"),
        ({"FASTADAM_INSTRUCTION_SET": "mmx"}, "instruction set 'mmx' is not available here"),
    ],
)
def test_doctor_finds_wrong_settings(environment: dict[str, str], message: str) -> None:
    if "FASTADAM_INSTRUCTION_SET" in environment and "c" not in AVAILABLE:
        pytest.skip("the C extension is not available")
    done = process("doctor", **environment)
    assert done.returncode == 1
    assert message in words(done.stdout)
    assert "Traceback" not in done.stderr
