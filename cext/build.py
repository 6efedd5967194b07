"""Describe the C extension ``fastadam.backends._c`` to cffi; setup.py builds it from here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
MODULE = "fastadam.backends._c"


def declarations() -> str:
    """Return what cffi's parser needs of the headers: no comments and no preprocessor lines."""
    names = ("constants.h", "structs.h", "adam.h", "exact.h", "gradients.h", "nested.h", "tensors.h")
    headers = "".join((HERE / name).read_text() for name in names)
    header = re.sub(r"/\*.*?\*/", "", headers, flags=re.DOTALL)
    return "\n".join(line for line in header.splitlines() if not line.startswith("#"))


def compile_flags() -> list[str]:
    """Return the flags that the numerics contract needs.

    ``-ffp-contract=off`` keeps every operation rounded on its own. ``-fno-math-errno`` lets the root vectorise,
    and ``-fno-trapping-math`` conversions to integers; neither changes a result. ``-ffast-math`` must never
    appear: it changes results, and a library linked with it switches denormal numbers off for the whole process.
    Without debugging information, which names the folder of the build, two builds give the same bytes; ``-g`` in
    ``CFLAGS`` keeps it.
    """
    if sys.platform == "win32":
        return ["/O2", "/fp:precise"]
    debugging = [] if "-g" in os.environ.get("CFLAGS", "").split() else ["-g0"]
    return [*debugging, "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


def openmp_flags() -> list[str]:
    """Return ``["-fopenmp"]`` where the compiler can build and link with it, else an empty list."""
    if sys.platform == "win32":
        return []
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "openmp.c"
        source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
        command = [*compiler, "-fopenmp", str(source), "-o", str(Path(folder) / "openmp")]
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return []
    return ["-fopenmp"] if done.returncode == 0 else []


def sanitizer_flags() -> list[str]:
    """Return what the environment variable ``FASTADAM_SANITIZE`` asks for, as in ``address,undefined``."""
    names = os.environ.get("FASTADAM_SANITIZE")
    if not names:
        return []
    return ["-g", "-fno-omit-frame-pointer", f"-fsanitize={names}", "-fno-sanitize-recover=all"]


# The runtimes of OpenMP do not tell ThreadSanitizer what they do, which would make it see races everywhere.
parallel = [] if "thread" in os.environ.get("FASTADAM_SANITIZE", "") else openmp_flags()
ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    MODULE,
    '#include "exact.h"\n#include "gradients.h"\n#include "nested.h"\n#include "tensors.h"',
    sources=sorted(f"cext/{path.name}" for path in HERE.glob("*.c")),
    include_dirs=["cext"],
    depends=[f"cext/{path.name}" for path in HERE.glob("*.[chi]*")],
    extra_compile_args=compile_flags() + parallel + sanitizer_flags(),
    extra_link_args=parallel + sanitizer_flags(),
    libraries=[] if sys.platform == "win32" else ["m"],
    # Without a compiler the install goes on; fastadam.available_backends() then says why C is missing.
    optional=True,
)
