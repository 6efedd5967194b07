"""Data flows one way: imports never point up."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import fastadam

ROOT = Path(fastadam.__file__).parent

# From the bottom up: a module may import only from lines above its own.
LAYERS = [
    ["element", "headers", "hyperparameters", "threads", "arrays", "backends", "locks", "interrupts"],
    ["cuda_arrays"],
    ["devices"],
    ["coefficients", "parameter", "flat", "formats"],
    ["params", "plan", "halves", "tensors"],
    ["groups", "matching"],
    ["spans", "state", "staging", "tensor_headers"],
    ["roster", "cuda_work"],
    ["backends.cuda_kernels", "backends.cuda_devices"],
    ["backends.cuda_driver"],
    ["backends.c", "backends.numpy", "backends.numba_cpu", "backends.numba_kernels", "backends.cuda"],
    ["readers"],
    ["adam", "torch"],
    ["checkpoint.format"],
    ["checkpoint.contents", "checkpoint.writing", "checkpoint.reading"],
    ["checkpoint.fitting"],
    ["checkpoint"],
    [""],
    ["convert.exchange"],
    ["convert.optax_states"],
    ["convert.keras", "convert.optax", "convert.torch"],
    ["convert"],
    # The command line, from what it measures and prints with to its commands.
    ["cli.shapes", "cli.contenders", "cli.memory", "cli.extra", "cli.terminal"],
    ["cli.measure", "cli.info", "cli.doctor"],
    ["cli.plot"],
    ["cli.bench"],
    ["cli.app"],
    ["cli"],
    ["__main__"],
]
# What base modules may not import, however indirectly: the library is light.
HEAVY = {
    "numba",
    "llvmlite",
    "cuda",
    "torch",
    "scipy",
    "cupy",
    "matplotlib",
    "mpmath",
    "gymnasium",
    "safetensors",
    "tqdm",
    "typer",
    "rich",
    "click",
    "jax",
    "keras",
    "optax",
}
PACKAGES = {"fastadam", "fastadam.backends", "fastadam.checkpoint", "fastadam.cli", "fastadam.convert"}
TERMINAL = {"typer", "rich", "click"}
# What else a module of the command line may import, beside these.
CLI_MAY = {"cli.contenders": {"jax", "optax"}, "cli.plot": {"matplotlib"}}
SIBLINGS = {("backends.numba_cpu", "backends.numba_kernels")}


def modules() -> dict[str, Path]:
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """Return the modules imported at run time, with those only for type checking left out."""
    found = set()
    tree = ast.parse(path.read_text())
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module in PACKAGES:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def level(name: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def test_every_module_has_a_layer() -> None:
    assert sorted(modules()) == sorted(name for layer in LAYERS for name in layer)


@pytest.mark.parametrize("name", [name for layer in LAYERS for name in layer])
def test_imports_never_point_up(name: str) -> None:
    known = modules()
    for imported in imports(known[name]):
        target = imported.removeprefix("fastadam").removeprefix(".")
        if not imported.startswith("fastadam") or target not in known or not target:
            continue
        assert level(target) < level(name) or (name, target) in SIBLINGS, f"{name} imports {target}"


@pytest.mark.parametrize("name", [name for layer in LAYERS for name in layer])
def test_only_those_made_for_it_import_anything_heavy(name: str) -> None:
    heavy = {imported.partition(".")[0] for imported in imports(modules()[name])} & HEAVY
    made_for = {
        "torch": {"torch"},
        "checkpoint.format": {"safetensors"},
        "checkpoint": {"tqdm"},
        "convert.optax_states": {"jax"},
        "backends.cuda": {"numba", "cuda"},
        "backends.cuda_driver": {"numba", "cuda"},
        "backends.cuda_kernels": {"numba", "llvmlite"},
    }
    if name.partition(".")[0] == "cli":
        allowed = TERMINAL | CLI_MAY.get(name, set())
    else:
        allowed = made_for.get(name, {"numba"} if name.startswith("backends.numba_") else set())
    assert heavy <= allowed
