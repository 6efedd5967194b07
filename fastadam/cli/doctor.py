"""``fastadam doctor``: does all work, and what is to be done where something does not."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

import fastadam
from fastadam import backends
from fastadam.backends import c
from fastadam.backends import numba as numba_cpu
from fastadam.backends.place import FOLDER, again, hidden, source_folder
from fastadam.cli.terminal import console, print_json
from fastadam.memory.devices import names_of, on_host
from fastadam.step import threads


class Finding(NamedTuple):
    """What one check found: whether something needs attention, what is the case, and what to do about it."""

    check: str
    ok: bool
    text: str
    remedy: str = ""


def run(as_json: bool) -> None:
    """Print what all checks find, and end with exit code 1 if something needs attention."""
    findings = examine()
    well = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": well, "checks": [finding._asdict() for finding in findings]})
    else:
        show(findings)
    if not well:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Run all checks; one that breaks off is a finding too."""
    checks: dict[str, Callable[[], Finding]] = {
        "version": _version,
        "C extension": _extension,
        "Numba": _numba,
        "Numba's cache": _cache,
        "threads": _threads,
        "denormal numbers": _denormals,
        "CUDA": _cuda,
    }
    states = fastadam.available_backends()
    for name, state in states.items():
        if state == "available":
            checks[f"steps of {name}"] = functools.partial(_steps, name)
    return [_run(name, check) for name, check in checks.items()]


def _run(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()._replace(check=name)
    except Exception as error:  # whatever is broken, the other checks go on
        return Finding(name, False, f"the check broke off: {type(error).__name__}: {error}", again())


def _ok(text: str) -> Finding:
    return Finding("", True, text)


def _attention(text: str, remedy: str) -> Finding:
    return Finding("", False, text, remedy)


# -------------------- the checks


def _version() -> Finding:
    try:
        installed = importlib.metadata.version("fastadam")
    except importlib.metadata.PackageNotFoundError:
        return _ok(f"{fastadam.__version__}, imported from {FOLDER} without being installed")
    if installed != fastadam.__version__:
        return _attention(f"the code is {fastadam.__version__}, but the version installed is {installed}", again())
    other = hidden() if source_folder() else None
    return _ok(f"{installed}, imported from {FOLDER}{'' if other is None else f' and not from {other}'}")


def _extension() -> Finding:
    if reason := c.why_missing():
        if reason.startswith("FASTADAM_"):
            return _attention(reason, "set FASTADAM_INSTRUCTION_SET to one of those, or unset it")
        return _attention(*_split(reason))
    openmp = "with OpenMP" if c.lib.fastadam_has_openmp() else "without OpenMP, so that steps take one thread"
    return _ok(f"built for this version, {openmp}; instruction set {c.instruction_set()}")


def _numba() -> Finding:
    if reason := numba_cpu.why_missing():
        return _attention(*_split(reason))
    layer = numba_cpu.threading_layer()
    if layer == "none":
        return _attention(
            "its threading layer cannot be loaded: steps take one thread", "unset NUMBA_THREADING_LAYER"
        )
    few = (
        ": steps take one thread, unless threads= is given; pip install tbb for more"
        if layer == "workqueue"
        else ""
    )
    return _ok(f"importable; threading layer {layer}{few}")


def _cache() -> Finding:
    if numba_cpu.why_missing():
        return _ok("not looked at, as Numba cannot be used")
    folder = numba_cpu.cache_folder()
    if folder is None:
        return _attention(
            "no folder for compiled kernels can be written, so that every process compiles them anew",
            "set NUMBA_CACHE_DIR to a folder that can be written",
        )
    return _ok(f"{folder} can be written")


def _threads() -> Finding:
    try:
        limit, source = threads.default_limit_and_source()
    except ValueError as error:
        return _attention(str(error), "set FASTADAM_NUM_THREADS to such a number, or unset it")
    shared = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if shared and not (shared.isdecimal() and int(shared) > 0):
        return _attention(
            f"OMP_NUM_THREADS is {shared!r}, which is no number of threads and is passed over",
            "set OMP_NUM_THREADS to a number from 1 on, or unset it",
        )
    more = f"; more than the {threads.processors()} processors here" if limit > threads.processors() else ""
    return _ok(f"at most {limit}, from {'the processors' if source == 'processors' else source}{more}")


def _denormals() -> Finding:
    smallest = np.array([np.finfo(np.float32).smallest_subnormal])  # an array: no constant folded beforehand
    smallest_double = np.array([np.finfo(np.float64).smallest_subnormal])
    # One that is flushed on reading comes out of the first product as 0, one flushed as a result of the second.
    kept = all(
        (number * 2.0**20)[0] > 0 and (np.finfo(number.dtype).smallest_normal * np.full_like(number, 0.5))[0] > 0
        for number in (smallest, smallest_double)
    )
    if kept:
        return _ok("kept in this process")
    return _attention(
        "they are flushed to zero in this process, so that results get other bits",
        "find the library that switches this on (one linked with -ffast-math, or torch.set_flush_denormal)",
    )


def _cuda() -> Finding:
    found, no_device = names_of("cuda")
    reason = backends.why_missing("cuda")
    if reason is None:
        return _ok(f"available; devices: {', '.join(found) or 'simulated'}")
    if no_device is not None:
        return _ok(f"not used: {no_device}")
    return _attention(*_split(reason))


def _steps(backend: fastadam.Backend) -> Finding:
    """Take steps with a backend in all ways, and compare every bit with the reference."""
    ways = 0
    sets = c.instruction_sets() if backend == "c" else ("",)
    for instruction_set in sets:
        with _using(instruction_set):
            for dtype, options in _VARIANTS:
                ways += 1
                for actual, expected in zip(
                    _stepped(backend, dtype, options), _stepped("numpy", dtype, options), strict=True
                ):
                    if actual.tobytes() != expected.tobytes():
                        kernels = f" with {instruction_set}" if instruction_set else ""
                        return _attention(
                            f"its results{kernels} differ from the reference's ({dtype}, {options})", again()
                        )
    if backend == "numpy":
        return _ok("taken: this is the reference")
    of_sets = f", with {', '.join(sets)}" if backend == "c" else ""
    return _ok(f"the same bits as the reference, in {ways} ways{of_sets}")


_VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("float32", {}),
    ("float64", {}),
    ("float32", {"weight_decay": 0.1, "amsgrad": True}),
    ("float32", {"threads": 2}),
]


def _stepped(backend: fastadam.Backend, dtype: str, options: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    """Return parameters and moments after three steps over arrays of odd sizes, some of them with denormals."""
    rng = np.random.default_rng(0)
    sizes = [1, 17, 1000]
    if "threads" in options:
        sizes.append(2 * threads.ELEMENTS_PER_THREAD + 1)  # enough for a second thread
    params = [rng.standard_normal(size).astype(dtype) for size in sizes]
    given: Any = fastadam.pack(params, device="cuda").params if backend == "cuda" else params
    optimizer = fastadam.Adam(given, lr=0.01, backend=backend, **{"threads": 1, **options})
    for _ in range(3):
        grads = [rng.standard_normal(size).astype(dtype) for size in sizes]
        grads[1] *= grads[1].dtype.type(np.finfo(dtype).smallest_normal)
        optimizer.step(fastadam.pack(grads, device="cuda").params if backend == "cuda" else grads)
    saved = optimizer.state_dict()["state"]
    return [on_host(param) for param in given] + [
        value for state in saved.values() for value in state.values() if isinstance(value, np.ndarray)
    ]


@contextmanager
def _using(instruction_set: str) -> Iterator[None]:
    if not instruction_set:
        yield
        return
    before = c.instruction_set()
    c.use_instruction_set(instruction_set)
    try:
        yield
    finally:
        c.use_instruction_set(before)


def _split(reason: str) -> tuple[str, str]:
    """Return the two parts of a backend's reason: what is the case; and what to do."""
    text, _, remedy = reason.rpartition("; ")
    return text, remedy


# -------------------- showing


def show(findings: list[Finding]) -> None:
    """Print a line for each finding, with the remedy below it."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in findings:
        mark = Text("ok", style="green") if finding.ok else Text("look", style="bold red")
        grid.add_row(mark, finding.check, finding.text)
        if finding.remedy:
            grid.add_row("", "", Text(f"-> {finding.remedy}", style="yellow"))
    out = console()
    out.print(grid)
    troubled = sum(not finding.ok for finding in findings)
    verb = "needs" if troubled == 1 else "need"
    out.print(f"\n{troubled} of {len(findings)} checks {verb} attention." if troubled else "\nAll is well.")
