"""Python started in the source folder imports that: where it has no C extension, it is said, with a remedy."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from fastadam.backends import place
from tests.support.processes import LONG, needs_c, only

SAY = "import fastadam; print(fastadam.available_backends()['c'])"


class Machine(NamedTuple):
    """A source folder without a C extension, and what `pip install` has made of it."""

    source: Path
    installed: Path
    elsewhere: Path


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "the source", tmp_path / "site-packages", tmp_path / "elsewhere")
    made.elsewhere.mkdir()
    without = shutil.ignore_patterns("_c.*", "__pycache__")
    shutil.copytree(place.FOLDER, made.source / "fastadam", ignore=without)
    (made.source / "cext").mkdir()
    for name in ("pyproject.toml", "cext/build.py"):
        (made.source / name).touch()
    shutil.copytree(place.FOLDER, made.installed / "fastadam", ignore=shutil.ignore_patterns("__pycache__"))
    return made


def python(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Start Python in a folder, which comes first on its path, and what is installed behind it."""
    return subprocess.run(
        [sys.executable, *arguments],
        # Without Numba's kernels, which a copy of the package would compile anew.
        env=only({"NUMBA_DISABLE_JIT": "1"} | ({} if path is None else {"PYTHONPATH": str(path)})),
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        cwd=folder,
    )


def said(folder: Path, path: Path | None = None) -> str:
    done = python(folder, "-c", SAY, path=path)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def build_as_told(reason: str, machine: Machine) -> None:
    """Check the command at the end of a reason, and do what it does to the folder that it names."""
    command = shlex.split(reason.rpartition(": ")[2])
    assert command == ["pip", "install", "-e", str(machine.source)]
    for built in (place.FOLDER / "backends").glob("_c.*"):
        shutil.copy(built, Path(command[-1]) / "fastadam" / "backends")


@needs_c
def test_a_source_folder_that_hides_an_installation(machine: Machine) -> None:
    reason = said(machine.source, machine.installed)
    assert reason.startswith(f"the C extension was not built in {machine.source}, the source folder")
    assert f"hides the fastadam that is installed in {machine.installed / 'fastadam'}; " in reason
    assert "start Python in another folder, or build it there: " in reason
    assert said(machine.elsewhere, machine.installed) == "available"
    build_as_told(reason, machine)
    assert said(machine.source, machine.installed) == "available"


@needs_c
def test_a_source_folder_alone(machine: Machine) -> None:
    reason = said(machine.source)
    assert "hides" not in reason
    assert "; install a C compiler if there is none, then build it there: " in reason
    build_as_told(reason, machine)
    assert said(machine.source) == "available"


def test_info_and_doctor_say_so(machine: Machine) -> None:
    pytest.importorskip("typer")
    reason = said(machine.source, machine.installed)
    info = json.loads(python(machine.source, "-m", "fastadam", "info", "--json", path=machine.installed).stdout)
    assert info["folder"] == str(machine.source / "fastadam")
    assert info["backends"]["c"] == reason
    doctor = python(machine.source, "-m", "fastadam", "doctor", "--json", path=machine.installed)
    assert doctor.returncode == 1
    checks = {check["check"]: check for check in json.loads(doctor.stdout)["checks"]}
    assert not checks["C extension"]["ok"]
    assert f"{checks['C extension']['text']}; {checks['C extension']['remedy']}" == reason
    assert checks["C extension"]["remedy"].startswith("start Python in another folder, or build it there: ")
    assert f"imported from {machine.source / 'fastadam'}" in checks["version"]["text"]


@needs_c
def test_an_extension_of_another_source_is_built_where_it_is_imported_from(machine: Machine) -> None:
    """Another installation of the package would not be imported."""
    build_as_told(said(machine.source), machine)
    structs = machine.source / "fastadam" / "memory" / "structs.py"
    text = structs.read_text()
    changed = text.replace('("param", ', '("parameter", ', 1)
    assert changed != text
    structs.write_text(changed)
    reason = said(machine.source, machine.installed)
    assert "built from another source than the Python code" in reason
    assert shlex.split(reason.rpartition(": ")[2]) == ["pip", "install", "-e", str(machine.source)]
