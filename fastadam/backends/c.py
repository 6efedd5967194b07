"""The C backend: the steps of cext/, called through cffi.

The fastest instruction set that the processor has is used. The environment variable
``FASTADAM_INSTRUCTION_SET`` (``baseline``, ``avx2`` or ``avx512``), read when the backend is first used, or
`use_instruction_set` at any time, force another one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastadam.backends.place import again, why_not_built
from fastadam.memory import tensor_structs as tensor_structs  # the rest of the table
from fastadam.memory.array_offsets import array_offsets
from fastadam.memory.native import CONSTANTS, TABLE, Block
from fastadam.memory.structs import APPLY, INSPECT, MEASURE
from fastadam.step.backend import Measure, PartOfPlan, Prepare, Prepared, Run

LEAVES_OUT = True

# By their names in C.
STRUCTS = {f"fastadam_{name}": struct.dtype for name, struct in TABLE.items()}
INSTRUCTION_SETS = ("baseline", "avx2", "avx512")

try:
    from fastadam.backends import _c  # type: ignore[attr-defined]

    lib: Any = _c.lib
    ffi: Any = _c.ffi
    _import_error = None
except ImportError as error:
    lib = ffi = None
    _import_error = error


@functools.cache
def why_missing() -> str | None:
    """Return why the C extension cannot be used here, or None if it can."""
    if _import_error is not None:
        return why_not_built() or (
            f"the C extension was not built or cannot be loaded ({_import_error}); install the library that this "
            f"names (libgomp.so.1 is in the package libgomp1 or libgomp), or install a C compiler, then {again()}"
        )
    if name := other_struct(STRUCTS):
        return f"the C extension was built from another source than the Python code (struct {name}); {again()}"
    if name := other_constant():
        return f"the C extension was built from another source than the Python code (constant {name}); {again()}"
    forced = os.environ.get("FASTADAM_INSTRUCTION_SET")
    if forced is not None:
        try:
            use_instruction_set(forced)
        except ValueError as error:
            return f"FASTADAM_INSTRUCTION_SET: {error}"
    return None


def other_struct(structs: Mapping[str, np.dtype[Any]]) -> str | None:
    """Return the first struct that the extension knows otherwise, or None: with one, it would write anywhere."""
    for name, dtype in structs.items():
        try:
            struct = ffi.typeof(name)
        except ffi.error:
            return name
        fields = {field: description.offset for field, description in struct.fields}
        known = {field: offset for field, (_, offset, *_) in (dtype.fields or {}).items()}
        if (ffi.sizeof(struct), fields) != (dtype.itemsize, known):
            return name
    return None


def other_constant() -> str | None:
    """Return the first constant that the extension knows otherwise, or None."""
    for constants in CONSTANTS:
        for name, value in constants.values.items():
            if getattr(lib, f"FASTADAM_{name}", None) != value:
                return f"FASTADAM_{name}"
    return None


def instruction_sets() -> tuple[str, ...]:
    """Return the instruction sets that this processor has a kernel for."""
    return tuple(name for i, name in enumerate(INSTRUCTION_SETS) if lib and lib.fastadam_supports(i))


def instruction_set() -> str:
    """Return the instruction set in use, or ``"none"`` without the C extension."""
    return INSTRUCTION_SETS[lib.fastadam_instruction_set()] if lib else "none"


def use_instruction_set(name: str) -> None:
    """Use the kernels for another instruction set from now on, in all optimizers; the bits stay the same.

    Parameters
    ----------
    name : str
        ``"baseline"``, ``"avx2"`` or ``"avx512"``.

    Raises
    ------
    ValueError
        If there is no such kernel, or this processor cannot run it.
    """
    if name not in instruction_sets():
        have = ", ".join(instruction_sets()) or "none, as the C extension is missing"
        raise ValueError(f"instruction set {name!r} is not available here; this processor has {have}")
    lib.fastadam_use(INSTRUCTION_SETS.index(name))


def bind(part: PartOfPlan) -> Run:
    """Return the function that runs a part of a plan (see `fastadam.step.backend.Backend`)."""
    run = _run(part)
    if array_offsets() is not None:
        return run
    return lambda stages: 0 if stages & INSPECT else run(stages)


def bind_calls(part: PartOfPlan) -> Prepare:
    """Return the function that makes a part's call ready (see `fastadam.step.backend.Backend`)."""
    ready = Prepared([functools.partial(_run(part), APPLY)])
    return lambda: ready


def bind_measure(part: PartOfPlan) -> Measure:
    """Return the function that adds up the squares of a part (see `fastadam.step.backend.Backend`)."""
    return functools.partial(_run(part), MEASURE)


def cut_rows(cut: Block) -> int:
    """Cut rows into runs (see `fastadam.step.backend.Backend`)."""
    n_runs: int = lib.fastadam_cut_rows(ffi.cast("fastadam_cut *", cut.address))
    return n_runs


def _run(part: PartOfPlan) -> Run:
    run: Run = functools.partial(lib.fastadam_run, ffi.cast("fastadam_plan *", part.memory.address))
    return run
