"""Environment variables: the limit of threads, and the instruction set."""

from __future__ import annotations

import pytest

from tests.support.processes import COMMON, needs_c, python


def test_limit_of_threads() -> None:
    code = """
import os

from fastadam.step.threads import default_limit, limit_from_environment

processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
for own, shared, limit in (
    ("3", None, 3),
    ("256", None, 256),
    (None, "5", 5),
    (None, "4,2", 4),
    (None, "100000", 256),
    ("3", "5", 3),
    (None, "0", processors),
    (None, "many", processors),
    (None, "", processors),
    (None, None, processors),
):
    for name, value in (("FASTADAM_NUM_THREADS", own), ("OMP_NUM_THREADS", shared)):
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    limit_from_environment.cache_clear()
    default_limit.cache_clear()
    assert default_limit() == limit, (own, shared, default_limit())
print("done")
"""
    assert python(code) == "done\n"


def test_bad_limit_of_threads() -> None:
    code = """
import os

import numpy as np

import fastadam

for value in (os.environ["FASTADAM_NUM_THREADS"], "0", "-1", "257", "", "1.5"):
    os.environ["FASTADAM_NUM_THREADS"] = value
    try:
        fastadam.Adam([np.ones(3)], backend="numpy")
    except ValueError as error:
        assert str(error) == f"FASTADAM_NUM_THREADS must be a number from 1 to 256, got {value!r}"
    else:
        raise AssertionError(value)
    fastadam.Adam([np.ones(3)], backend="numpy", threads=1).step([np.ones(3)])  # not asked for
print("done")
"""
    assert python(code, FASTADAM_NUM_THREADS="two") == "done\n"


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"FASTADAM_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "2"}, "2"),
        ({"FASTADAM_NUM_THREADS": "1", "OMP_NUM_THREADS": "4"}, "1"),
    ],
)
def test_limit_of_threads_holds(environment: dict[str, str], threads: str) -> None:
    code = COMMON + (
        "opt = fastadam.Adam([np.ones(10 * N)], backend='numpy')\n"
        "print(*opt._planner.in_pieces.plan.batches['threads'])\n"
    )
    assert python(code, **environment) == threads + "\n"


@needs_c
def test_instruction_set_from_the_environment() -> None:
    code = COMMON + (
        "from fastadam.backends import c\n"
        "assert fastadam.available_backends()['c'] == 'available'\n"
        "assert bits('c', 2) == bits('numpy')\n"
        "print(c.instruction_set())\n"
    )
    assert python(code, FASTADAM_INSTRUCTION_SET="baseline") == "baseline\n"


@needs_c
@pytest.mark.parametrize("value", ["sse9", ""])
def test_unknown_instruction_set(value: str) -> None:
    code = """
import numpy as np

import fastadam

print(fastadam.available_backends()["c"])
for backend in ("c", "auto"):
    try:
        fastadam.Adam([np.ones(3)], backend=backend)
    except fastadam.BackendUnavailableError as error:
        print(error)
print(fastadam.Adam([np.ones(3)], backend="numpy").backend)
"""
    reason, error, auto, named = python(code, FASTADAM_INSTRUCTION_SET=value).splitlines()
    assert reason.startswith(
        f"FASTADAM_INSTRUCTION_SET: instruction set {value!r} is not available here; this proc"
    )
    assert error == f"backend 'c' is not available: {reason}"
    assert auto == error  # a wrong setting must not choose another backend in silence
    assert named == "numpy"
