"""mypy and pyright accept what is right, and find on each line of what is wrong just what is expected there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import fastadam
from tests.support.processes import LONG

EXAMPLES = Path(__file__).parent / "examples"
# What stands before the module's name in the files of one library, and the library.
NEEDED = {"arrays": None, "jax": "jax", "scipy": "scipy", "thinc": "thinc", "torch": "torch"}
FILES = sorted(path.name for path in EXAMPLES.glob("*.py"))
PACKAGE = str(Path(fastadam.__file__).parents[1])

# The last ones have no types.
MYPY = """
[mypy]
strict = true
python_version = 3.10
follow_imports = silent
[mypy-optax.*,scipy.*,thinc.*]
ignore_missing_imports = true
"""

# For each file, the codes of the errors in each line.
Found = Mapping[str, Mapping[int, set[str]]]


def run_mypy(files: list[str], folder: Path) -> Found:
    config = folder / "mypy.ini"
    config.write_text(MYPY)
    options = ["--config-file", str(config), "--cache-dir", str(folder / "cache"), "--no-error-summary"]
    done = _run(["mypy", *options, "--hide-error-context", "--no-pretty", *files], folder)
    found: dict[str, dict[int, set[str]]] = {}
    for line in done.splitlines():
        if ": note: " in line:
            continue
        match = re.fullmatch(r"(.*?):(\d+): error: .*\[([\w-]+)\]", line)
        assert match is not None, done
        found.setdefault(Path(match[1]).name, {}).setdefault(int(match[2]), set()).add(match[3])
    return found


def run_pyright(files: list[str], folder: Path) -> Found:
    config = {"extraPaths": [PACKAGE], "pythonVersion": "3.10", "typeCheckingMode": "standard"}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = ["pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(folder)]
    found: dict[str, dict[int, set[str]]] = {}
    said = _run(command, folder)
    result = json.loads(said[said.index("{") :])
    assert result["summary"]["filesAnalyzed"] == len(files), said
    for each in result["generalDiagnostics"]:
        lines = found.setdefault(Path(each["file"]).name, {})
        lines.setdefault(each["range"]["start"]["line"] + 1, set()).add(each.get("rule", each["message"]))
    return found


def _run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "MYPYPATH": PACKAGE, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1 is for errors in what was checked
    return done.stdout


CHECKERS: dict[str, Callable[[list[str], Path], Found]] = {"mypy": run_mypy, "pyright": run_pyright}


@pytest.fixture(scope="module", params=CHECKERS)
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Found]:
    """Give the name of a checker, and what it says of all files."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed; pip install -e '.[lint]'")
    folder = tmp_path_factory.mktemp(request.param)
    for name in FILES:
        shutil.copy(EXAMPLES / name, folder)
    return request.param, CHECKERS[request.param](FILES, folder)


def expected(name: str, checker: str) -> dict[int, set[str]]:
    """Return the errors that the comments in a file announce."""
    found = {}
    for number, line in enumerate((EXAMPLES / name).read_text().splitlines(), 1):
        code, mark, comment = line.partition("  # ")
        if code and mark:
            codes = comment.split(" | ")[[*CHECKERS].index(checker)]
            found[number] = set(codes.split(", "))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_checkers_find_what_is_wrong_and_no_more(checked: tuple[str, Found], name: str) -> None:
    kind, _, library = name.removesuffix(".py").partition("_")
    if NEEDED[library] is not None:
        pytest.importorskip(str(NEEDED[library]))
    checker, found = checked
    wanted = expected(name, checker)
    assert bool(wanted) == (kind == "wrong")
    assert found.get(name, {}) == wanted


def test_both_kinds_of_examples_are_there() -> None:
    assert {name.partition("_")[0] for name in FILES} == {"right", "wrong"}
