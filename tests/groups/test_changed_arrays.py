"""Arrays that were changed in place, when something is made over them anew: plans, moments, groups, states."""

from __future__ import annotations

import subprocess
import sys

from tests.support.processes import LONG

CHANGES = """
import itertools
import sys
import warnings

import numpy as np

import fastadam

warnings.simplefilter("ignore")  # some of these ways are deprecated
BACKEND = sys.argv[1]


class Subclass(np.ndarray):
    pass


def other_dtype(w, dtype):
    w.dtype = dtype


def set_state(w, n):
    w.__setstate__((1, (n,), np.dtype(float), False, np.ones(n).tobytes()))


CHANGES = {
    "narrower": lambda w: other_dtype(w, np.float32),
    "wider": lambda w: other_dtype(w, np.complex128),
    "as wide": lambda w: other_dtype(w, np.complex64),
    "longer": lambda w: set_state(w, 200_000),
    "shorter": lambda w: set_state(w, 2),
    "a little shorter": lambda w: set_state(w, N - 1),
    "same": lambda w: set_state(w, N),
}


def ones(opt_arrays):
    return [np.ones(w.shape, w.dtype) for w in opt_arrays]


def step(opt, arrays, saved):
    opt.step(ones(arrays))


def pattern(opt, arrays, saved):
    opt.step([*ones(arrays)[:1], None])


def amsgrad(opt, arrays, saved):
    opt.param_groups[0]["amsgrad"] = True
    opt.step(ones(arrays))


def join(opt, arrays, saved):
    opt.add_param_group({"params": [np.ones(3)]})
    opt.step([*ones(arrays), np.ones(3)])


def load(opt, arrays, saved):
    opt.load_state_dict(saved)
    opt.step(ones(arrays))


USES = (step, pattern, amsgrad, join, load)
for N, (name, change), use, first, kind in itertools.product(
    (10, 1_000_000), CHANGES.items(), USES, (True, False), (np.ndarray, Subclass)
):
    if N > 10 and name not in ("shorter", "a little shorter", "narrower"):
        continue
    arrays = [np.ones(N).view(kind) if kind is Subclass else np.ones(N), np.ones(4, np.float32)]
    opt = fastadam.Adam(arrays, lr=0.1, backend=BACKEND)
    other = fastadam.Adam([np.ones(N), np.ones(4, np.float32)], lr=0.1, amsgrad=True, backend=BACKEND)
    other.step(ones([np.ones(N), np.ones(4, np.float32)]))
    if not first:
        opt.step(ones(arrays))
    steps = opt._groups[0].steps.tolist()
    what = (N, name, use.__name__, first, kind.__name__)
    try:
        change(arrays[0])
    except (AttributeError, ValueError, TypeError):
        continue  # NumPy refuses
    before = [w.tobytes() for w in arrays]
    try:
        use(opt, arrays, other.state_dict())
    except (TypeError, ValueError) as error:
        assert "parameter 0" in str(error), (what, error)
        assert "new optimizer" in str(error) or "gradient" in str(error), (what, error)
        assert opt._groups[0].steps.tolist() == steps, what
        assert [w.tobytes() for w in arrays] == before, what
    else:  # as if nothing had happened: the array has the memory of before, of the same size
        assert name == "same", (what, "taken")
print("done")
"""


def run(program: str, *arguments: str) -> None:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"


def test_what_is_made_anew_is_made_over_what_was_checked(backend: str) -> None:
    """Never numbers of another dtype, nor moments of another size: an error names the parameter."""
    run(CHANGES, backend)


MEDDLERS = """
import sys

import numpy as np

import fastadam

BACKEND = sys.argv[1]
N = 20_000


def pull_away(w):
    w.__setstate__((1, (2,), np.dtype(float), False, np.ones(2).tobytes()))


class Fake:
    # Claims to be an array, and pulls one away when it is asked.
    def __init__(self, target, claims):
        self.target, self.claims = target, claims

    @property
    def __class__(self):
        pull_away(self.target)
        return self.claims

    @property
    def dtype(self):
        pull_away(self.target)
        return np.dtype(float)

    @property
    def __array_interface__(self):
        pull_away(self.target)
        return np.ones(N).__array_interface__

    __cuda_array_interface__ = __array_interface__

    def __array__(self, *args, **kwargs):
        pull_away(self.target)
        return np.ones(N)


class Overridden(np.ndarray):
    target = None

    def meddle(self):
        if Overridden.target is not None:
            pull_away(Overridden.target)

    shape = property(lambda self: (self.meddle(), (3,))[1])
    dtype = property(lambda self: (self.meddle(), np.dtype(np.int8))[1])
    size = property(lambda self: (self.meddle(), 3)[1])
    flags = property(lambda self: (self.meddle(), None)[1])

    def __array_finalize__(self, other):
        self.meddle()

    def __getitem__(self, key):
        self.meddle()
        return np.ndarray.__getitem__(self, key)


class Mapping(dict):
    # Pulls an array away when the last of its items is read.
    target = None

    def __getitem__(self, key):
        if self.target is not None and key == list(self)[-1]:
            pull_away(self.target)
        return super().__getitem__(key)


def make(names=False):
    a, b = np.ones(N), np.ones(N)
    opt = fastadam.Adam({"a": a, "b": b} if names else [a, b], lr=0.1, backend=BACKEND)
    opt.step({"a": np.ones(N), "b": np.ones(N)} if names else [np.ones(N)] * 2)
    return a, b, opt


def state(opt):
    moments = [m[key].tobytes() for m in opt._groups[0].moments.values() for key in m]
    return moments, opt._groups[0].steps.tolist()


def refused(opt, do, *rest):
    before = state(opt), [w.tobytes() for w in rest]
    try:
        do()
    except (TypeError, ValueError):
        pass
    else:
        raise AssertionError("taken")
    assert (state(opt), [w.tobytes() for w in rest]) == before, "half done"


# Gradients: a parameter, or a gradient that has been looked at, is pulled away while the others are.
for claims in (np.ndarray, np.generic, np.ma.MaskedArray, float, int):
    for of_gradient in (False, True):
        a, b, opt = make()
        grads = [np.ones(2 * N)[::2], None]
        grads[1] = Fake(grads[0] if of_gradient else a, claims)
        refused(opt, lambda: opt.step(grads), b)

a, b, opt = make()
odd = np.ones(N).view(Overridden)
Overridden.target = a
opt.step([np.ones(2 * N)[::2], odd])  # none of its attributes is asked
Overridden.target = None
assert opt._groups[0].steps.tolist() == [2, 2]

a, b, opt = make(names=True)
grads = Mapping(a=np.ones(N), b=np.ones(N))
grads.target = a
refused(opt, lambda: opt.step(grads), b)

# A state dict: a parameter, or a moment that has been read, is pulled away while the others are.
for of_moment in (False, True):
    a, b, opt = make()
    saved = opt.state_dict()
    saved["state"] = Mapping(saved["state"])
    saved["state"].target = saved["state"][0]["exp_avg"] if of_moment else a
    refused(opt, lambda: opt.load_state_dict(saved), b)

    a, b, opt = make()
    saved = opt.state_dict()
    target = saved["state"][0]["exp_avg"] if of_moment else a
    saved["state"][1]["exp_avg"] = Fake(target, float)
    refused(opt, lambda: opt.load_state_dict(saved), b)

# Parameters that change those that were taken before them.
def changing():
    a = np.ones(N)
    yield a
    pull_away(a)
    yield np.ones(N)


opt = fastadam.Adam(changing(), lr=0.1, backend=BACKEND)  # as they are when all have been read
opt.step([np.ones(2), np.ones(N)])

a, b, opt = make()


def changing_older():
    yield np.ones(3)
    pull_away(a)


refused(opt, lambda: opt.add_param_group({"params": changing_older()}), b)
assert len(opt.param_groups) == 1
print("done")
"""


def test_foreign_code_between_a_check_and_what_it_is_for(backend: str) -> None:
    """Whatever runs while gradients and states are read: an error, and nothing was written."""
    run(MEDDLERS, backend)
