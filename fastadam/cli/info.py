"""``fastadam info``: what is installed here, and what is in use."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import fastadam
from fastadam.backends import BackendUnavailableError, c, choose
from fastadam.backends import numba as numba_cpu
from fastadam.backends.place import FOLDER
from fastadam.cli.memory import readable
from fastadam.cli.terminal import console, print_json
from fastadam.memory import buffers
from fastadam.memory.devices import names_of
from fastadam.step import threads

PACKAGES = ("numpy", "numba", "numba-cuda", "cffi", "torch", "optax")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def run(as_json: bool) -> None:
    """Print what `collect` finds."""
    found = collect()
    if as_json:
        print_json(found)
    else:
        show(found)


def collect() -> dict[str, Any]:
    """Return all facts, as values that JSON has."""
    states = fastadam.available_backends()
    return {
        "fastadam": fastadam.__version__,
        "folder": str(FOLDER),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": {name: version(name) for name in PACKAGES},
        "backends": states,
        "auto": _auto(),
        "threads": thread_limits(),
        "c": {
            "instruction_set": c.instruction_set() if states["c"] == "available" else None,
            "instruction_sets": list(c.instruction_sets()),
            "forced": os.environ.get("FASTADAM_INSTRUCTION_SET"),
            "openmp": bool(c.lib.fastadam_has_openmp()) if states["c"] == "available" else None,
        },
        "numba": _numba(states["numba"] == "available"),
        "huge_pages": {"setting": huge_pages(), "from_bytes": buffers.HUGE_FROM},
        "cuda": dict(zip(("devices", "reason"), names_of("cuda"), strict=True)),
    }


def version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _auto() -> str | None:
    try:
        return choose("auto")[0]
    except BackendUnavailableError:  # a wrong setting; the reason stands beside the backend
        return None


def thread_limits() -> dict[str, Any]:
    """Return how many threads a step may take, and what says so."""
    found: dict[str, Any] = {"limit": None, "source": None, "error": None}
    try:
        found["limit"], found["source"] = threads.default_limit_and_source()
    except ValueError as error:
        found["error"] = str(error)
    return {**found, "processors": threads.processors(), "elements_per_thread": threads.ELEMENTS_PER_THREAD}


def _numba(is_available: bool) -> dict[str, Any]:
    if not is_available:
        return {"threading_layer": None, "cache": None}
    return {"threading_layer": numba_cpu.threading_layer(), "cache": numba_cpu.cache_folder()}


def huge_pages() -> str | None:
    """Return the system's setting (``always``, ``madvise`` or ``never``), or None where it has none."""
    try:
        match = re.search(r"\[(\w+)\]", HUGE_PAGES.read_text())
    except OSError:
        return None
    return match[1] if match else None


# -------------------- showing


def show(found: dict[str, Any]) -> None:
    """Print all facts, a line for each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")

    def section(title: str, lines: dict[str, str | Text]) -> None:
        grid.add_row(Text(title, style="bold cyan"), "")
        for name, value in lines.items():
            grid.add_row(f"  {name}", value)

    ours = f"{found['fastadam']}, imported from {found['folder']}"
    section("versions", {"fastadam": ours, "python": f"{found['python']}, {found['system']}"})
    for name, installed in found["packages"].items():
        grid.add_row(f"  {name}", installed or Text("not installed", style="dim"))
    section("backends", {name: _state(name, state, found) for name, state in found["backends"].items()})
    section("threads", {"limit": _limit(found["threads"]), "per step": _per_step(found["threads"])})
    section("memory", {"huge pages": _huge_pages(found["huge_pages"])})
    section("cuda devices", dict.fromkeys(found["cuda"]["devices"], _used_by(found["backends"]["cuda"])))
    if not found["cuda"]["devices"]:
        grid.add_row("  none", found["cuda"]["reason"])
    console().print(grid)


def _state(name: str, state: str, found: dict[str, Any]) -> Text:
    if state != "available":
        return Text.assemble(("missing", "bold red"), f": {state}")
    details = ["taken by backend='auto'"] if found["auto"] == name else []
    if name == "c":
        own = found["c"]
        forced = "; set by FASTADAM_INSTRUCTION_SET" if own["forced"] else ""
        details.append(
            f"instruction set {own['instruction_set']} (of {', '.join(own['instruction_sets'])}{forced})"
        )
        details.append("OpenMP" if own["openmp"] else "no OpenMP, so one thread")
    elif name == "numba":
        own = found["numba"]
        details.append(f"threading layer {own['threading_layer']}")
        details.append(f"cache {own['cache']}" if own["cache"] else "no cache folder can be written")
    return Text.assemble(("available", "green"), "".join(f"; {detail}" for detail in details))


def _used_by(state: str) -> str:
    return "arrays on it are stepped there" if state == "available" else "not used: see the backend cuda"


def _limit(found: dict[str, Any]) -> str:
    if found["error"]:
        return str(found["error"])
    source = "the processors this process may use" if found["source"] == "processors" else found["source"]
    return f"{found['limit']}, from {source} (processors: {found['processors']})"


def _per_step(found: dict[str, Any]) -> str:
    return f"one for each {found['elements_per_thread']:,} numbers, up to the limit"


def _huge_pages(found: dict[str, Any]) -> str:
    size = readable(found["from_bytes"])
    return {
        "always": f"always: all large memory gets them, fastadam's buffers of {size} and more included",
        "madvise": f"madvise: fastadam's buffers of {size} and more ask for them",
        "never": f"never: switched off in this system; buffers of {size} and more would ask for them",
    }.get(str(found["setting"]), "this system has no setting for them")
