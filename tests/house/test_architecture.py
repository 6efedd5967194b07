"""The house: a folder for each concern, arrows that only go down, no circle, and no room too large."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import fastadam
from tests.house import graph
from tests.house.__main__ import MOST_LINES, ROOT, large
from tests.support.processes import LONG

PACKAGE = Path(fastadam.__file__).parent
ARROWS = graph.arrows(PACKAGE)
GRAPH = graph.graph_of(ARROWS)
needs_source = pytest.mark.skipif(
    not all((ROOT / name).is_dir() for name in ("fastadam", "cext")), reason="the source is not beside the tests"
)

# What each folder, and each module beside them, may import from, for types and within functions too. "fastadam" is
# the package's own module, which users import.
MAY_IMPORT: dict[str, set[str]] = {
    "memory": set(),
    "schedules": set(),
    "step": {"memory"},
    "groups": {"step", "memory"},
    "backends": {"step", "memory"},
    "work": {"groups", "backends", "step", "memory"},
    "adam": {"work", "groups", "backends", "step", "memory"},
    "adamw": {"adam", "groups", "step"},
    "clipping": {"work", "step", "memory"},
    "torch": {"groups", "backends", "step", "memory"},
    "mpi": {"adam", "work", "groups", "step", "memory"},
    "checkpoint": {"adam", "groups", "step", "memory", "schedules"},
    "convert": {"adam", "torch", "groups", "step", "memory"},
    "minimizing": {"adam", "groups", "memory"},
    "uncorrected": {"adam", "memory"},
    "scipy": {"adam", "step", "memory"},
    "sklearn": {"uncorrected", "memory"},
    "thinc": {"uncorrected", "memory"},
    "fastadam": {
        *(
            "adam",
            "adamw",
            "backends",
            "checkpoint",
            "clipping",
            "groups",
            "memory",
            "minimizing",
            "schedules",
            "step",
        )
    },
    # Beside the public API: what `doctor` and `info` look into.
    "cli": {"fastadam", "torch", "backends", "schedules", "step", "memory"},
    "__main__": {"cli"},
}
# Imported only where it is used: by far the heaviest of what a user may not have.
LAZILY = {("convert", "torch")}

# What the library does without, unless a user asks for what needs it; and the folders and modules made for each.
HEAVY: dict[str, set[str]] = {
    "numba": {"backends.numba", "backends.cuda", "memory.cuda"},
    "llvmlite": {"backends.numba", "backends.cuda"},
    "cuda": {"backends.cuda", "memory.cuda"},
    "torch": {"torch", "convert.torch", "cli.bench", "cli.contenders"},
    "safetensors": {"checkpoint.format"},
    "tqdm": {"checkpoint"},
    "jax": {"convert.optax_states", "cli.contenders"},
    "optax": {"cli.contenders"},
    "matplotlib": {"cli.plot"},
    "typer": {"cli"},
    "rich": {"cli"},
    "click": {"cli"},
    "mpi4py": {"mpi"},
    "scipy": {"scipy"},
    "sklearn": {"sklearn"},
    "thinc": {"thinc"},
    **{name: set() for name in ("cupy", "mpmath", "gymnasium", "keras", "pandas", "autograd")},
}


def test_every_room_is_in_the_table() -> None:
    assert {graph.room(name) for name in GRAPH} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_only_go_down(room: str) -> None:
    wrong = [
        f"{name}, line {each.line}: {each.target}"
        for name, found in ARROWS.items()
        for each in found
        if graph.room(name) == room
        and each.target in GRAPH
        and graph.room(each.target) not in {room, *MAY_IMPORT[room]}
    ]
    assert wrong == []


def test_the_table_has_no_arrow_up() -> None:
    assert graph.circles(MAY_IMPORT) == []


@pytest.mark.parametrize(("room", "lazily"), LAZILY)
def test_what_may_be_missing_is_imported_where_it_is_used(room: str, lazily: str) -> None:
    wrong = [
        f"{name}, line {each.line}: {each.target}"
        for name, found in ARROWS.items()
        for each in found
        if graph.room(name) == room
        and each.target in GRAPH
        and graph.room(each.target) == lazily
        and not each.lazy
    ]
    assert wrong == []


def test_no_circle() -> None:
    assert graph.circles(GRAPH) == []


@pytest.mark.parametrize("library", HEAVY)
def test_only_those_made_for_it_import_anything_heavy(library: str) -> None:
    rooms = {f"fastadam.{room}" for room in HEAVY[library]}
    wrong = [
        f"{name}, line {each.line}"
        for name, found in ARROWS.items()
        for each in found
        if each.target.partition(".")[0] == library
        and not any(name == room or name.startswith(f"{room}.") for room in rooms)
    ]
    assert wrong == []


@needs_source
def test_no_module_is_too_large() -> None:
    assert large(ROOT) == {}, f"more than {MOST_LINES} lines"


def test_dir_shows_the_public_names() -> None:
    shown = {name for name in dir(fastadam) if not name.startswith("__")}
    modules = {"backends", "convert", "mpi", "scipy", "sklearn", "thinc", "torch"}  # shown once they are imported
    assert {*fastadam.__all__} - {"__version__"} <= shown <= {*fastadam.__all__} | modules
    assert "__version__" in dir(fastadam)


# What the parser of imports must see, in a package of two modules.
SEEN = """
import numpy, fastadam.low
from fastadam import low
from fastadam.low import name
from .. import fastadam
from . import low
from .low import name
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import fastadam.low
def f():
    from fastadam import low
    g = lambda: __import__("fastadam.low")
"""


def test_all_ways_to_import_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "high.py"
    path.write_text(SEEN)
    found = graph.imports("fastadam.sub.high", path, {"fastadam", "fastadam.low", "fastadam.sub.low"})
    assert [(each.line, each.target, each.lazy) for each in found] == [
        (2, "fastadam.low", False),
        (2, "numpy", False),
        (3, "fastadam.low", False),
        (4, "fastadam.low", False),
        (5, "fastadam", False),
        (6, "fastadam.sub.low", False),
        (7, "fastadam.sub.low", False),
        (8, "typing", False),
        (10, "fastadam.low", False),
        (12, "fastadam.low", True),
    ]


def test_circles_and_floors_of_a_small_house() -> None:
    house = {"roof": {"left", "right"}, "left": {"right", "cellar"}, "right": {"left"}, "cellar": set()}
    assert graph.circles(house) == [["left", "right"]]
    assert graph.floors(house) == [["roof"], ["left", "right"], ["cellar"]]
    assert graph.drawing({"roof": {"wall", "cellar"}, "wall": {"cellar"}, "cellar": set()}) == [
        "   2  roof              -> wall",
        "   1  wall              -> cellar",
        "   0  cellar",
    ]


@needs_source
def test_the_house_is_shown() -> None:
    """The command's exit code is that of the tests above; each kind of step is seen to enter modules."""
    command = [sys.executable, "-m", "tests.house"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == (1 if graph.circles(GRAPH) or large(ROOT) else 0), done.stderr
    shown = done.stdout.partition("== the modules that a step enters, in order\n")[2]
    ways = dict(block.split("\n", 1) for block in shown.strip().split("\n\n"))
    assert list(ways) == [
        "fastadam.Adam.step(grads)",
        "fastadam.Adam.step(), packed",
        "fastadam.torch.Adam.step()",
    ]
    for what, way in ways.items():
        if "torch" in what and importlib.util.find_spec("torch") is None:
            assert "not taken" in way
        else:
            assert "work" in way or "torch" in way, what


@needs_source
def test_every_package_is_installed() -> None:
    """In a checkout that is installed as editable, a package that is missing in the list would not show."""
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "fastadam").rglob("__init__.py")}
    assert set(listed) == found
