"""Run the C code under sanitizers and valgrind: ``python -m tests.sanitize [NAME...] [--quick | --more]``.

A line for each check says how it went and how long it took. Checks whose tools are missing are left out, which is
said too, but with ``--require`` they count as failed. ``--more`` takes more plans and more of the Python tests;
``--quick`` fewer of both, so that all checks together take about three minutes, as CI has them.

The harness ``tests/native/steps.c`` drives the kernels without Python, over random plans. What ThreadSanitizer,
helgrind and DRD see of OpenMP would be false: the runtimes are not built for them. So there the harness starts
threads of its own, in a build without OpenMP; only clang's runtime tells ThreadSanitizer what it does, through its
tool Archer.
The Python checks build the extension with ``FASTADAM_SANITIZE`` in a copy of the source. Python's own allocator is
switched off, so that each array has an allocation of its own with guards around it; leaks are not looked for, as
Python does not free everything at its end.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / "tests" / "native"
PYTHONS = {"dlpack", "gradients", "nested", "tensors"}
# The C code that needs no Python.
STEP = [path for path in sorted((ROOT / "cext").glob("*.c")) if path.stem not in PYTHONS]
FLAGS = "-std=c11 -g -ffp-contract=off -fno-math-errno -Wall -Wextra -Werror"
QUICK, USUAL, MORE = range(3)  # how much is tried
LONG = 1500  # seconds that no check comes near to, unless it hangs
UNDEFINED = "-fsanitize=address,undefined -fno-sanitize-recover=all"

VALGRIND = f"valgrind -q --error-exitcode=9 --suppressions={NATIVE / 'valgrind.supp'} --tool="
STEPS_OF_PYTHON = """
import numpy as np
import fastadam

for kind in range(4):
    arrays = [np.ones(n, dtype) for n in (1, 17, 1000) for dtype in (np.float32, np.float64, np.complex64)]
    optimizer = fastadam.Adam(arrays, weight_decay=kind % 2, amsgrad=kind > 1, backend="c", threads=2)
    for step in range(3):
        optimizer.step([np.full_like(array, step + 0.5) for array in arrays])
        optimizer.step([np.full(2 * array.size, 0.5, array.dtype)[::2] for array in arrays])
print("steps taken")
"""


class MissingError(Exception):
    """A tool is not here."""


def need(*tools: str) -> None:
    """Raise `MissingError` where a command is not to be found."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise MissingError(f"{tool} is not installed")


def run(command: str, folder: Path, **environment: str) -> None:
    """Run a command; raise `RuntimeError` with what it printed if it fails."""
    done = subprocess.run(
        shlex.split(command),
        cwd=folder,
        # Threads of OpenMP that wait by spinning take the time of others where there are few processors.
        env={"OMP_WAIT_POLICY": "passive", **os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=LONG,
        check=False,
    )
    if done.returncode != 0:
        settings = " ".join(f"{name}={value}" for name, value in environment.items())
        raise RuntimeError(f"{settings} {command}\nexit code {done.returncode}\n{done.stdout}")


def harness(folder: Path, compiler: str, flags: str) -> Path:
    """Build the harness; return its path."""
    need(compiler)
    program = folder / f"steps-{compiler}-{abs(hash(flags))}"
    sources = " ".join(str(path) for path in [*STEP, *sorted(NATIVE.glob("*.c"))])
    if not program.exists():
        run(f"{compiler} {FLAGS} {flags} -I{ROOT / 'cext'} {sources} -o {program} -lm -pthread", folder)
    return program


def compact(folder: Path, compiler: str, flags: str) -> Path:
    """Build the harness of compact formats; return its path."""
    need(compiler)
    program = folder / f"compact-{compiler}-{abs(hash(flags))}"
    sources = " ".join(str(path) for path in [*STEP, NATIVE / "compact" / "compact.c"])
    if not program.exists():
        run(f"{compiler} {FLAGS} {flags} -I{ROOT / 'cext'} {sources} -o {program} -lm -pthread", folder)
    return program


def plain(folder: Path, length: int) -> None:
    """Compare all bits: threads of OpenMP, callers at once, arrays against the ends of pages."""
    steps = harness(folder, "gcc", "-O3 -fopenmp")
    mixed = ("--mixed --threads 3", "--mixed --guard")
    # The first one's checksum is known, so it has a number of plans of its own.
    for options in ("", "--threads 8", "--guard --threads 3", "--callers 8 --threads 2 --plans 100", *mixed):
        fewer = "--plans 60" if length == QUICK and options and "--plans" not in options else ""
        run(f"{steps} {options} {fewer}", folder)
    run(f"{compact(folder, 'gcc', '-O3 -fopenmp')} --threads 3", folder)
    if length == MORE:
        run(f"{steps} --plans 20000 --seed 1 --threads 8 --guard", folder)


def undefined(folder: Path, length: int, *, compiler: str) -> None:
    """Look for wrong addresses and undefined behaviour."""
    flags = f"-O1 {UNDEFINED} {'-fopenmp' if compiler == 'gcc' else ''}"
    steps = harness(folder, compiler, flags)
    run(f"{compact(folder, compiler, flags + ' -fsanitize=float-cast-overflow')} --threads 3", folder)
    fewer = "--plans 60" if length == QUICK else ""
    run(f"{steps} --threads 8 {fewer}", folder)
    run(f"{steps} --mixed --threads 8 {fewer}", folder)
    run(f"{steps} --plans {(20, 100, 2000)[length]} --seed 1 --callers 4", folder)


def races(folder: Path, length: int) -> None:
    """Step plans over the same gradients in many threads, while one changes the instruction set."""
    steps = harness(folder, "gcc", "-O1 -fsanitize=thread")
    run(f"{steps} --plans {(30, 100, 2000)[length]} --callers 8", folder)


def races_openmp(folder: Path, length: int) -> None:
    """Let OpenMP split batches; Archer tells ThreadSanitizer when they wait for each other."""
    need("clang")
    archer = Path(str(shutil.which("clang"))).resolve().parent.parent / "lib" / "libarcher.so"
    if not archer.exists():
        raise MissingError("libarcher, of clang's OpenMP, is not installed")
    steps = harness(folder, "clang", "-O1 -fsanitize=thread -fopenmp")
    run(
        f"{steps} --plans {(40, 100, 2000)[length]} --threads 8 --callers 2",
        folder,
        OMP_TOOL_LIBRARIES=str(archer),
        TSAN_OPTIONS="ignore_noninstrumented_modules=1",
    )


def valgrind(folder: Path, length: int, *, tool: str) -> None:
    """Use one of valgrind's tools, which know AVX2, not AVX-512."""
    need("valgrind")
    steps = harness(folder, "gcc", "-O2")
    callers = 1 if tool == "memcheck" else 4
    run(f"{VALGRIND}{tool} {steps} --plans {(10, 20, 400)[length]} --callers {callers}", folder)


@functools.cache
def sanitized_copy(folder: Path, names: str) -> Path:
    """Copy the source and build the extension there with sanitizers; return the copy's path."""
    copy = folder / names.replace(",", "-")
    copy.mkdir()
    skipped = shutil.ignore_patterns("*.so", "__pycache__", "native")
    for name in ("fastadam", "cext", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    installed = copy / "installed"
    pip = f"{sys.executable} -m pip install --quiet --no-deps --target {installed} ."
    run(pip, copy, FASTADAM_SANITIZE=names)
    (built,) = installed.glob("fastadam/backends/_c*.so")
    shutil.copy(built, copy / "fastadam" / "backends")
    return copy


def runtime(name: str) -> str:
    """Return the path of a sanitizer's library, which has to be loaded before Python."""
    found = subprocess.run(["gcc", f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True)
    return found.stdout.strip()


def run_guarded(arguments: str, folder: Path, **environment: str) -> None:
    """Run Python with the sanitized extension, and with guards around all that is allocated."""
    run(
        f"{sys.executable} {arguments}",
        sanitized_copy(folder, "address,undefined"),
        # The second is for C++ exceptions, PyTorch's among them: the first looks for it when it is loaded.
        LD_PRELOAD=f"{runtime('asan')} {runtime('stdc++')}",
        ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1",
        PYTHONMALLOC="malloc",
        **environment,
    )


def python_undefined(folder: Path, length: int) -> None:
    """Run the tests of the C backend, and of PyTorch tensors with --more, with all arrays guarded."""
    need("gcc")
    tests = ["step/test_plan.py", "step/test_exact.py", "work/test_native_check.py", "memory/test_pulled_away.py"]
    if length > QUICK:
        tests += ["backends/test_halves.py", "work/test_bad_gradients.py", "work/test_good_gradients.py"]
        tests += ["work/test_nested_gradients.py", "groups", "memory"]
    if length == MORE:
        tests += ["step/test_numerics.py", "adam/test_api.py", "adam/test_forms.py", "adam/test_options.py"]
        tests += ["adam/test_consistency.py"]
        torchs = ("bits", "errors", "readers", "stale", "spoiled", "changed_models", "let_go", "state")
        tests += [f"torch/test_{name}.py" for name in torchs]
    files = " ".join(f"tests/{name}" for name in tests)
    command = f"-m pytest -q -p no:cacheprovider {files} -k 'not numba and not numpy'"
    run_guarded(command, folder, FASTADAM_PROMISED_BACKENDS="c")


def torch_address(folder: Path, length: int) -> None:
    """Let handlers, threads, properties and finalizers free what an optimizer of PyTorch's tensors steps."""
    need("gcc")
    if importlib.util.find_spec("torch") is None:
        raise MissingError("torch is not installed")
    run_guarded(f"-m tests.meddle --seconds {(12, 30, 300)[length]}", folder)


def python_races(folder: Path, length: int) -> None:
    """Step optimizers in eight Python threads; the extension is built without OpenMP."""
    need("gcc")
    run(
        f"{sys.executable} -m tests.stress --seconds {(2, 5, 60)[length]} --only c --without-processes",
        sanitized_copy(folder, "thread"),
        LD_PRELOAD=runtime("tsan"),
        TSAN_OPTIONS="ignore_noninstrumented_modules=1:report_thread_leaks=0",
    )


def python_valgrind(folder: Path, length: int) -> None:
    """Take some steps from Python under memcheck; only errors that pass through the extension's code count."""
    del length
    need("valgrind")
    log = folder / "memcheck.log"
    run(
        f"valgrind -q --log-file={log} {sys.executable} -c {shlex.quote(STEPS_OF_PYTHON)}",
        ROOT,
        PYTHONMALLOC="malloc",
        FASTADAM_INSTRUCTION_SET="avx2",
        OMP_NUM_THREADS="2",
    )
    found = log.read_text(errors="replace")
    if any(name in found for name in ("_c.abi3.so", "fastadam_", "kernel_")):
        raise RuntimeError(found)


CHECKS: dict[str, Callable[[Path, bool], None]] = {
    "steps": plain,
    "steps-gcc-address-undefined": functools.partial(undefined, compiler="gcc"),
    "steps-clang-address-undefined": functools.partial(undefined, compiler="clang"),
    "steps-gcc-thread": races,
    "steps-clang-thread-openmp": races_openmp,
    "steps-memcheck": functools.partial(valgrind, tool="memcheck"),
    "steps-helgrind": functools.partial(valgrind, tool="helgrind"),
    "steps-drd": functools.partial(valgrind, tool="drd"),
    "python-address-undefined": python_undefined,
    "torch-address-undefined": torch_address,
    "python-thread": python_races,
    "python-memcheck": python_valgrind,
}


def main() -> int:
    """Run the checks that were asked for; return how many failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.sanitize", description="See the first lines of the file."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CHECKS)}; all by default")
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument("--quick", action="store_const", dest="length", const=QUICK, help="fewer plans and tests")
    lengths.add_argument("--more", action="store_const", dest="length", const=MORE, help="more plans, more tests")
    parser.set_defaults(length=USUAL)
    parser.add_argument("--require", action="store_true", help="a missing tool is a failure")
    given = parser.parse_args()
    unknown = set(given.names) - set(CHECKS)
    if unknown:
        parser.error(f"no such check: {', '.join(sorted(unknown))}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in given.names or CHECKS:
            start = time.perf_counter()
            try:
                CHECKS[name](Path(folder), given.length)
                outcome = "ok"
            except MissingError as error:
                outcome = f"left out: {error}"
                failed += given.require
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                outcome = f"FAILED: {error}"
                failed += 1
            print(f"{name:30} {time.perf_counter() - start:6.1f} s  {outcome}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
