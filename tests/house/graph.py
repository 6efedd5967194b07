"""The import graph of a package, read from its files: no module is imported for that.

An arrow goes from a module to each module of the package that it names in an import, at its top, within a function
or for type checking alone. ``from a import b`` names ``a.b`` where that is a module, and otherwise ``a``.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

PACKAGE = "fastadam"
Graph = Mapping[str, set[str]]


class Import(NamedTuple):
    """One import.

    Attributes
    ----------
    target : str
        What is named, ``fastadam.step.plan`` or ``numpy.random``.
    line : int
        Where.
    lazy : bool
        Whether it stands within a function.
    """

    target: str
    line: int
    lazy: bool


def modules(package: Path) -> dict[str, Path]:
    """Return the files of a package by the names of their modules, its own first: ``fastadam.step.plan``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(name: str, path: Path, known: Collection[str]) -> list[Import]:
    """Return all imports of a module; `known` are the modules of the package."""
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name if path.name == "__init__.py" else name.rpartition(".")[0]
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                longer = f"{base}.{alias.name}"
                found.append(Import(longer if longer in known else base, node.lineno, lazy))
        for child in ast.iter_child_nodes(node):
            visit(child, lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text()), False)
    return sorted(set(found), key=lambda each: (each.line, each.target))


def arrows(package: Path) -> dict[str, list[Import]]:
    """Return the imports of each module of a package."""
    known = modules(package)
    return {name: imports(name, path, known) for name, path in known.items()}


def graph_of(found: Mapping[str, Iterable[Import]]) -> dict[str, set[str]]:
    """Return which modules of the package each one names."""
    return {
        name: {each.target for each in given if each.target in found} - {name} for name, given in found.items()
    }


def room(module: str) -> str:
    """Return the folder of a module, or the module itself where it lies in the package's own."""
    return module.split(".")[1] if "." in module else module


def rooms(graph: Graph) -> dict[str, set[str]]:
    """Return the graph of folders, and of the modules beside them."""
    found: dict[str, set[str]] = {}
    for name, targets in graph.items():
        found.setdefault(room(name), set()).update({room(target) for target in targets} - {room(name)})
    return found


def circles(graph: Graph) -> list[list[str]]:
    """Return the sets of names that reach each other (Tarjan's strongly connected components of two and more)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], order[target])
        if low[name] == order[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def floors(graph: Graph) -> list[list[str]]:
    """Return the names by floors, from the top: each stands just above the highest of those that it names.

    What is in a circle has one floor together.
    """
    together = {name: tuple(circle) for circle in circles(graph) for name in circle}
    heights: dict[tuple[str, ...], int] = {}

    def height(name: str) -> int:
        group = together.get(name, (name,))
        if group not in heights:
            below = {target for each in group for target in graph[each]} - set(group)
            heights[group] = 1 + max((height(target) for target in below), default=-1)
        return heights[group]

    found: dict[int, list[str]] = {}
    for name in sorted(graph):
        found.setdefault(height(name), []).append(name)
    return [found[floor] for floor in sorted(found, reverse=True)]


def drawing(graph: Graph) -> list[str]:
    """Return lines that show names by floors, and beside each those that it names and does not reach otherwise."""
    together = {name: circle for circle in circles(graph) for name in circle}
    reach: dict[str, set[str]] = {}

    def reached(name: str) -> set[str]:
        """Return all that a name reaches; of a circle, what lies outside."""
        if name not in reach:
            group = together.get(name, [name])
            below = {target for each in group for target in graph[each]} - set(group)
            reach[name] = below.union(*map(reached, below))
        return reach[name]

    lines = []
    found = floors(graph)
    for height, floor in zip(reversed(range(len(found))), found, strict=True):
        for name in floor:
            circle = together.get(name, [name])
            below = graph[name] - set(circle)
            straight = [each for each in sorted(below) if not any(each in reached(other) for other in below)]
            line = f"{height:4}  {name:18}" + ("-> " + ", ".join(straight) if straight else "")
            others = ", ".join(each for each in circle if each != name)
            lines.append((line + (f"  (in a circle with {others})" if others else "")).rstrip())
    return lines


def sizes(files: Iterable[Path]) -> dict[Path, int]:
    """Return how many lines each file has."""
    return {path: len(path.read_text().splitlines()) for path in files}
