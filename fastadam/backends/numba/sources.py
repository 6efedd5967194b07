"""What Numba's cache of kernels depends on."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from fastadam.memory import formats, native, structs
from fastadam.step import after, bias_correction, coefficients, compact, element, norm, rounding, totals

_SHARED: tuple[ModuleType, ...] = (
    *(formats, native, structs),
    *(after, bias_correction, coefficients, compact, element, norm, rounding, totals),
)


@functools.cache
def version() -> int:
    """Return a number that is another one when any source of the kernels or the structs' layout has changed.

    Numba's cache knows when the file of a kernel changes, but not of what that file imports. Where there are no
    files to read, there is no cache either.
    """
    layouts = repr([struct.dtype for struct in native.TABLE.values()]).encode()
    found = [*sorted(Path(__file__).parent.glob("*.py")), *(Path(module.__file__ or "") for module in _SHARED)]
    return zlib.crc32(b"".join([layouts, *(path.read_bytes() for path in found if path.is_file())]))


def name_for_cache(function: Callable[..., Any], *which: object) -> Callable[..., Any]:
    """Give a function a name of its own, in which the version is: by their names Numba's cache tells them apart.

    Two that were cached by different processes would get mixed up in a third one if they were called the same.
    """
    function.__name__ = function.__qualname__ = "_".join(map(str, (function.__name__, *which, version())))
    return function
