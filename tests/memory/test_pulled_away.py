"""Arrays that are changed behind the optimizer's back: a step raises, or goes on as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastadam
from tests.support.bench import (
    NAMES,
    Subclass,
    assert_goes_on,
    each_layout,
    refused,
    take,
)
from tests.support.bits import assert_same_bits
from tests.support.processes import LONG


def test_parameter_made_read_only_afterwards(backend: str) -> None:
    for bench in each_layout(backend):
        for at in (0, 2):
            bench.arrays[at].flags.writeable = False
            with refused(bench.opt, ValueError, rf"parameter ({at}|'{NAMES[at]}') is read-only"):
                bench.good_step(9)
            bench.arrays[at].flags.writeable = True
        assert_goes_on(bench)


def test_subclass_made_read_only_afterwards(backend: str) -> None:
    w = np.ones(3).view(Subclass)
    opt = fastadam.Adam([np.ones(2), w], backend=backend)
    opt.step([np.ones(2), np.ones(3)])
    w.flags.writeable = False
    with refused(opt, ValueError, "parameter 1 is read-only"):
        opt.step([np.ones(2), np.ones(3)])


def test_packed_buffer_made_read_only_afterwards(backend: str) -> None:
    bench = take("packed", backend)
    bench.flat.grad[...] = 1
    bench.flat.param.flags.writeable = False
    with refused(bench.opt, ValueError, "parameter 0 .*is read-only"):
        bench.opt.step()
    bench.flat.param.flags.writeable = True
    assert_goes_on(bench)


PULL_AWAY = """
import warnings

import numpy as np

import fastadam

warnings.simplefilter("ignore")  # some of these ways are deprecated


class Subclass(np.ndarray):
    pass


def bench(make):
    w = np.ones((2, 4))
    if make == "array":
        params = [w]
    elif make == "subclass":
        w = w.view(Subclass)
        params = [w]
    elif make == "memory-mapped":
        w = np.memmap(sys.argv[2], float, "w+", shape=(2, 4))
        w[...] = 1
        params = [w]
    elif make == "Parameter":
        params = [fastadam.Parameter(w)]
        w = params[0].data
    elif make == "mapping":
        params = {"w": w}
    else:
        params = fastadam.pack([w])
        w = params.params[0] if make == "packed" else params.param
    opt = fastadam.Adam(params, backend=sys.argv[1])
    opt.step([np.full((2, 4), 2.0)] if make != "mapping" else {"w": np.full((2, 4), 2.0)})
    return w, opt


def step(w, opt, make):
    grad = np.full(w.shape, 2.0, w.dtype)
    opt.step({"w": grad} if make == "mapping" else grad)


def other_dtype(w, dtype):
    w.dtype = dtype


def other_shape(w):
    w.shape = (4, 2)


PULLS = {
    "larger": lambda w, opt: w.resize(1 << 20, refcheck=False),
    "smaller": lambda w, opt: w.resize(0, refcheck=False),
    "moment": lambda w, opt: opt.state[0]["exp_avg"].resize(1 << 20, refcheck=False),
    "set state": lambda w, opt: w.__setstate__((1, w.shape, w.dtype, False, w.tobytes())),
    "set longer state": lambda w, opt: w.__setstate__((1, (9, 9), w.dtype, False, np.ones((9, 9)).tobytes())),
    "narrower dtype": lambda w, opt: other_dtype(w, np.float32),
    "wider dtype": lambda w, opt: other_dtype(w, np.complex128),
    "dtype of the same size": lambda w, opt: other_dtype(w, np.complex64),
    "shape": lambda w, opt: other_shape(w),
}
for make in ("array", "subclass", "memory-mapped", "Parameter", "mapping", "packed", "packed, whole"):
    for name, pull in PULLS.items():
        w, opt = bench(make)
        expected = np.ones((2, 4))
        control = fastadam.Adam([expected], backend=sys.argv[1])
        for _ in range(2):
            control.step([np.full((2, 4), 2.0)])
        try:
            pull(w, opt)
        except (AttributeError, BufferError, TypeError, ValueError):
            pass  # NumPy refuses
        rubbish = [np.full(8, 7.0) for _ in range(1000)]  # takes up what was freed
        dtype = w.dtype
        try:
            step(w, opt, make)
        except (TypeError, ValueError) as error:
            assert "parameter" in str(error), (make, name, error)
            assert opt._groups[0].steps.tolist() == [1], (make, name)
        else:
            assert dtype == float, (make, name, "the dtype is another one")
            assert w.tobytes() == expected.tobytes(), (make, name, w)
        assert all((one == 7).all() for one in rubbish), (make, name, "wrote into other memory")
print("done")
"""


def test_memory_cannot_be_pulled_away(backend: str, tmp_path: Any) -> None:
    """Whatever is done to the array, a step raises or goes on as if nothing had happened."""
    command = [sys.executable, "-c", "import sys" + PULL_AWAY, backend, str(tmp_path / "param")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_parameter_data_cannot_be_exchanged(backend: str) -> None:
    bench = take("objects", backend)
    one = bench.objects[0]
    with refused(bench.opt, AttributeError, r"Parameter.data cannot be exchanged .*p.data\[...\] = value"):
        one.data = one.data.copy()
    with refused(bench.opt, AttributeError, "cannot be exchanged"):
        one.data = one.data[:]
    with refused(bench.opt, AttributeError, "data"):
        del one.data
    with refused(bench.opt, AttributeError, "gradient"):
        one.gradient = np.ones((3, 4), np.float32)
    before = one.data.copy()
    one.data -= 1  # works in place, and assigns the same array
    assert_same_bits(one.data, before - np.float32(1))
    one.data[...] = before
    assert_goes_on(bench)


PACKED_EDITS = [
    pytest.param(lambda flat: setattr(flat, "grad", flat.grad + 1), id="grad"),
    pytest.param(lambda flat: setattr(flat, "param", flat.param + 1), id="param"),
    pytest.param(lambda flat: setattr(flat, "grads", None), id="grads"),
    pytest.param(lambda flat: flat.grads.__setitem__("w", np.ones((3, 4), np.float32)), id="grads['w']"),
    pytest.param(lambda flat: flat.params.__setitem__("w", np.ones((3, 4), np.float32)), id="params['w']"),
]


@pytest.mark.parametrize("edit", PACKED_EDITS)
def test_arrays_of_a_packed_buffer_cannot_be_exchanged(backend: str, edit: Callable[[Any], Any]) -> None:
    """The optimizer would not see another array: ``flat.grads["w"] = g`` must not be lost in silence."""
    bench = take("packed and named", backend)
    with refused(bench.opt, (AttributeError, TypeError), "packed|exchanged|no setter|can't set attribute"):
        edit(bench.flat)
    bench.flat.grad += 1  # work in place, and assign the same array
    bench.flat.param += 0
    bench.flat.grads["w"] += 1
    bench.flat.params["w"] += 0
    assert_goes_on(bench)


def test_a_parameter_that_was_locked_is_unlocked_by_the_remedy() -> None:
    w = np.ones(3)
    optimizer = fastadam.Adam([w])
    w.flags.writeable = False
    with pytest.raises(ValueError, match=r"make it writable again: w\.flags\.writeable = True"):
        optimizer.step([np.ones(3)])
    w.flags.writeable = True
    optimizer.step([np.ones(3)])
    assert (w < 1).all()
