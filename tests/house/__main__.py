"""Print how the package is built: circles of imports, large modules, floors, and the modules that a step enters.

``python -m tests.house`` looks at the working tree; ``--commit BASE`` shows a commit before it. The exit code is 1
if the working tree has a circle or a module that is too large.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gate.install import GateError, commit_of, install
from tests.house import graph

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".asv" / "gate"  # where the gate keeps what it installs
MOST_LINES = 400


class House(NamedTuple):
    """What there is to say of a tree."""

    rooms: dict[str, set[str]]
    modules: int
    circles: list[list[str]]
    large: dict[str, int]
    steps: dict[str, Any]


def look(tree: Path, installed: Path) -> House:
    """Read a tree's files, and take steps with its package."""
    package = tree / graph.PACKAGE
    arrows = graph.graph_of(graph.arrows(package))
    steps = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("steps.py")), str(installed)],
        cwd=installed,
        capture_output=True,
        text=True,
        check=True,
    )
    return House(
        rooms=graph.rooms(arrows),
        modules=len(arrows),
        circles=graph.circles(arrows),
        large=large(tree),
        steps=json.loads(steps.stdout),
    )


def large(tree: Path) -> dict[str, int]:
    """Return the source files of more than `MOST_LINES` lines, and how many they have."""
    files = [*(tree / graph.PACKAGE).rglob("*.py")]
    files += [path for path in (tree / "cext").iterdir() if path.suffix in (".c", ".h", ".inc", ".py")]
    sizes = graph.sizes(files)
    return {str(path.relative_to(tree)): sizes[path] for path in sorted(files) if sizes[path] > MOST_LINES}


def way(entered: list[str] | str) -> str:
    """Return the modules in the order in which they are first entered, with how often, where it is not once."""
    if isinstance(entered, str):
        return f"not taken: {entered}"
    times = Counter(entered)
    return " > ".join(name if times[name] == 1 else f"{name} ({times[name]} times)" for name in times)


def show(title: str, house: House) -> None:
    """Print all but the steps."""
    print(f"== {title}: {house.modules} modules in {len(house.rooms)} rooms")
    print("\nfloors, from the top; what a room reaches through others is left out")
    print("\n".join(graph.drawing(house.rooms)))
    print("\ncircles of imports, those for types and within functions among them")
    for circle in house.circles or [["none"]]:
        print("  " + ", ".join(circle))
    print(f"\nmodules of more than {MOST_LINES} lines")
    for name, lines in house.large.items() or [("none", "")]:
        print(f"  {name} {lines}".rstrip())


def main() -> int:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.house", description=__doc__)
    parser.add_argument("--commit", metavar="BASE", help="show this commit first")
    chosen = parser.parse_args()
    houses: dict[str, House] = {}
    if chosen.commit:
        try:
            commit = commit_of(ROOT, chosen.commit)
            installed = install(ROOT, commit, CACHE)
        except GateError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "source.tar"
            subprocess.run(
                ["git", "archive", "--output", archive, commit, graph.PACKAGE, "cext"], cwd=ROOT, check=True
            )
            with tarfile.open(archive) as opened:
                opened.extractall(folder, filter="data")
            houses[f"commit {commit[:7]}"] = look(Path(folder), installed)
    houses["the working tree"] = here = look(ROOT, ROOT)
    for title, house in houses.items():
        show(title, house)
        print()
    print("== the modules that a step enters, in order")
    for what in here.steps:
        print(f"\n{what}")
        for title, house in houses.items():
            print(f"  {title:18} {way(house.steps.get(what, 'there is none'))}")
    return 1 if here.circles or here.large else 0


if __name__ == "__main__":
    sys.exit(main())
