"""``fastadam doctor``: what it finds wrong, and that it finds nothing where all is well."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fastadam.backends import HOST, c
from fastadam.backends import numba as numba_cpu
from fastadam.cli import doctor
from fastadam.cli.app import app
from tests.cli.commands import process, run, words
from tests.conftest import AVAILABLE
from tests.support.processes import needs_c


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
