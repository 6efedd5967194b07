"""The asv benchmarks: what they may need of the package that they measure."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import benchmarks.suite
import fastadam
from benchmarks.suite.calls import Counter
from tests.support.processes import LONG

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "benchmarks" / "suite"
MODULES = [module.name for module in pkgutil.iter_modules([str(SUITE)])]
KINDS = ("time_", "timeraw_", "track_", "peakmem_")


FORGET = "from suite import measured; measured.forget_editable_install()"


def classes() -> list[Any]:
    modules = [importlib.import_module(f"benchmarks.suite.{name}") for name in MODULES]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and hasattr(value, "params")
    ]


def run(code: str, cwd: Path, *folders: Path) -> str:
    """Run code in a fresh process that finds the folders' packages first."""
    lines = f"import sys; sys.path[:0] = {[str(folder) for folder in folders]}; {FORGET}; {code}"
    done = subprocess.run([sys.executable, "-c", lines], cwd=cwd, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_discovery_does_not_import_what_is_measured(tmp_path: Path) -> None:
    """Else all steps would run on one thread, in the forked children that asv measures in."""
    imports = "; ".join(f"import suite.{name}" for name in MODULES)
    out = run(f"{imports}; print({{'fastadam', 'torch', 'numba'}} & set(sys.modules))", tmp_path, SUITE.parent)
    assert out == "set()"


@pytest.mark.parametrize("each", classes(), ids=lambda each: each.__name__)
def test_parameters_are_named_figures_have_units_and_versions_are_kept(each: Any) -> None:
    assert each.__doc__
    assert len(each.param_names) == len(each.params)
    assert all(len(set(values)) == len(values) > 0 for values in each.params)
    assert each.version.isdecimal()
    methods = [name for name in dir(each) if name.startswith(KINDS)]
    assert methods
    assert all(hasattr(getattr(each, name), "unit") for name in methods if name.startswith("track_"))


def test_an_older_package_is_measured_with_the_contenders_of_today(tmp_path: Path) -> None:
    """One without a command line, without torch's face and without the C extension."""
    old = tmp_path / "old" / "fastadam"
    ignored = shutil.ignore_patterns("cli", "torch.py", "_c.*", "__pycache__")
    shutil.copytree(Path(fastadam.__file__).parent, old, ignore=ignored)
    code = (
        "from suite.measured import make_step, need_backend; make_step('numpy', 'in place', [(3,), (2, 2)])();"
        "import fastadam, sys; print(fastadam.__file__); print(sys.modules['fastadam.cli'].__file__)"
    )
    measured, line = run(code, tmp_path, old.parent, SUITE.parent).split("\n")
    assert Path(measured).is_relative_to(old)
    assert Path(line).is_relative_to(ROOT / "fastadam" / "cli")


@pytest.mark.parametrize("what", ["'c', 'packed'", "'numpy', 'torch face'"])
def test_what_an_older_package_lacks_is_skipped(tmp_path: Path, what: str) -> None:
    old = tmp_path / "old" / "fastadam"
    ignored = shutil.ignore_patterns("torch", "torch.py", "_c.*", "__pycache__")
    shutil.copytree(Path(fastadam.__file__).parent, old, ignore=ignored)
    code = f"""
from suite.measured import maker
try:
    maker({what})
except NotImplementedError as why:
    print("skipped:", why)
"""
    assert run(f"exec({code!r})", tmp_path, old.parent, SUITE.parent).startswith("skipped: ")


def test_only_the_public_part_of_the_package_is_used() -> None:
    """Beside the C library, whose calls are counted, and the command line, which is the checkout's own."""
    for path in SUITE.glob("*.py"):
        for module in re.findall(r"\b(?:import|from) (fastadam[\w.]*)", path.read_text()):
            assert module in ("fastadam", "fastadam.mpi", "fastadam.torch") or module.startswith("fastadam.cli"), (
                path
            )


def test_calls_are_counted_and_everything_else_is_passed_on() -> None:
    class Library:
        constant = 3

        @staticmethod
        def double(number: int) -> int:
            return 2 * number

    counter = Counter(Library())
    assert (counter.constant, counter.double(4), counter.double(5), counter.calls) == (3, 8, 10, 2)


def test_the_configuration_names_folders_that_are_there() -> None:
    conf = json.loads((ROOT / "asv.conf.json").read_text())
    assert ROOT / conf["benchmark_dir"] == Path(benchmarks.suite.__file__).parent
    assert (ROOT / conf["results_dir"] / "benchmarks.json").is_file()
