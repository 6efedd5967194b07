"""Replace, free and load an optimizer's tensors while it steps: ``python -m tests.meddle [--seconds S] [WAY...]``.

Handlers of signals, other threads, properties and finalizers do to a `fastadam.torch.Adam` what they may do to
torch's at any moment: exchange its state, load another, drop it, put its parameters into another list. Each way
runs for a while over small tensors, in whose steps Python's lock is held, and over large ones, where it is not.
Errors are fine; a crash is not, nor an optimizer that cannot be stepped afterwards. ``PYTHONMALLOC=debug``, or an
allocator with guards, shows what is read after it was freed.
"""

from __future__ import annotations

import argparse
import collections
import copy
import faulthandler
import gc
import itertools
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

import fastadam.torch

NAMES = ("exp_avg", "exp_avg_sq", "step")
JUNK = (16, 24, 32, 48, 64, 96, 128, 192, 208, 232, 256)
Change = Callable[[Any, random.Random], object]


def params_of(optimizer: Any) -> list[Any]:
    """Return the parameters of all groups."""
    return [param for group in optimizer.param_groups for param in group["params"]]


def some_state(optimizer: Any, rng: random.Random) -> dict[str, Any]:
    """Return the state of one parameter, empty where there is none."""
    states = list(optimizer.state.values())
    return rng.choice(states) if states else {}


def replace_moments(optimizer: Any, rng: random.Random) -> None:
    """Put copies in the place of one parameter's tensors."""
    state = some_state(optimizer, rng)
    for name in NAMES:
        if name in state:
            state[name] = state[name].clone()


def pop_state(optimizer: Any, rng: random.Random) -> None:
    """Drop the state of one parameter."""
    optimizer.state.pop(rng.choice(params_of(optimizer)), None)


def load(optimizer: Any, rng: random.Random) -> None:
    """Load a copy of what the optimizer holds."""
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def other_keys(optimizer: Any, rng: random.Random) -> None:
    """Put the same tensors under keys that are equal, but other objects."""
    state = some_state(optimizer, rng)
    for name in list(state):
        state["".join(list(name))] = state.pop(name)


def other_list(optimizer: Any, rng: random.Random) -> None:
    """Put the parameters into a new list."""
    group = optimizer.param_groups[0]
    group["params"] = list(group["params"])


def resize(optimizer: Any, rng: random.Random) -> None:
    """Put one parameter's rows into another order, and free the old ones."""
    param = rng.choice(params_of(optimizer))
    optimizer.resize(param, [*range(1, len(param)), 0] if len(param) < 100 else None)
    param.untyped_storage().resize_(0)


CHANGES: dict[str, Change] = {
    "replace": replace_moments,
    "clear": lambda optimizer, rng: optimizer.state.clear(),
    "pop": pop_state,
    "load": load,
    "keys": other_keys,
    "list": other_list,
    "resize": resize,
    "reset": lambda optimizer, rng: optimizer.reset(rng.choice(params_of(optimizer))),
    "backend": lambda optimizer, rng: setattr(optimizer, "backend", rng.choice(["c", "numpy", "auto"])),
    "threads": lambda optimizer, rng: setattr(optimizer, "threads", rng.choice([1, 2, None])),
}


class Trap(torch.nn.Parameter):
    """A parameter whose gradient is got by a property, which may run something first."""

    spring: Callable[[], object] | None = None

    @property
    def grad(self) -> Any:  # type: ignore[override]
        """The gradient."""
        spring, self.spring = self.spring, None
        if spring is not None:
            spring()
        return torch.Tensor.grad.__get__(self)

    @grad.setter
    def grad(self, value: Any) -> None:
        torch.Tensor.grad.__set__(self, value)


class Garbage:
    """A cycle that does something when the collector frees it."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.itself, self.action = self, action

    def __del__(self) -> None:
        self.action()


def fill_freed_memory() -> None:
    """Let what was freed be something else."""
    kept = [bytearray(b"\x41" * size) for size in JUNK for _ in range(50)]
    del kept[::2]


def outcome_of(work: Callable[[], object]) -> str:
    """Return the name of the error that it raises, of those that are fine, or "done"."""
    try:
        work()
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        return type(error).__name__
    return "done"


def step_under(
    meddle: Callable[[Any, Change, random.Random], Callable[[], None]], name: str, size: int, kind: str
) -> str:
    """Step while one of the changes is made over and over; return what was counted."""
    rng = random.Random(f"{name} {size} {kind}")
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.ones(size)) for _ in range(6 if size < 100_000 else 2)]
    params.insert(1, Trap(torch.ones(3)))
    optimizer = fastadam.torch.Adam(params, lr=1e-3, sparse="lazy")
    for param in params:
        param.grad = torch.ones_like(param)
    if kind == "sparse":
        for param in params[2:4]:
            rows = torch.arange(0, size, 3)
            param.grad = None
            param.grad = torch.sparse_coo_tensor(rows[None], torch.ones(len(rows)), (size,), check_invariants=True)
    optimizer.step()
    counts = collections.Counter[str]()
    stop = meddle(optimizer, CHANGES[name], rng)
    end = time.monotonic() + SECONDS
    try:
        while time.monotonic() < end:
            counts[outcome_of(optimizer.step)] += 1
    finally:
        stop()
    optimizer.state.clear()
    stepped = params_of(optimizer)[0]
    before = stepped.detach().clone()
    optimizer.step()
    if torch.equal(before, stepped):
        raise SystemExit(f"{name}: the optimizer does not step any more")
    return ", ".join(f"{what} {count}" for what, count in counts.items())


def by_thread(optimizer: Any, change: Change, rng: random.Random) -> Callable[[], None]:
    """Let another thread make the change."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            outcome_of(lambda: change(optimizer, rng))
            time.sleep(0.0002)

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> None:
        ended.set()
        thread.join()

    return stop


def by_handler(optimizer: Any, change: Change, rng: random.Random) -> Callable[[], None]:
    """Let the handler of an alarm make the change."""
    ended: list[bool] = []

    def handle(*_: object) -> None:
        if not ended:  # else the last alarm comes as this ends, and must not set another
            outcome_of(lambda: change(optimizer, rng))  # an error while a step is under way
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-4, 2e-3))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 1e-3)

    def stop() -> None:
        ended.append(True)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    return stop


def by_property(optimizer: Any, change: Change, rng: random.Random) -> Callable[[], None]:
    """Let the property of a gradient make the change, and free what it can, in every other step."""
    trap = params_of(optimizer)[1]

    def spring() -> None:
        trap.spring = (lambda: setattr(trap, "spring", spring)) if rng.random() < 0.5 else spring
        change(optimizer, rng)
        fill_freed_memory()

    trap.spring = spring
    return lambda: setattr(trap, "spring", None)


def by_finalizer(optimizer: Any, change: Change, rng: random.Random) -> Callable[[], None]:
    """Let finalizers make the change, which the collector runs whenever it has a mind to."""
    thresholds, alive = gc.get_threshold(), [True]
    gc.set_threshold(50, 2, 2)

    def act() -> None:
        if alive:
            Garbage(act)
            outcome_of(lambda: change(optimizer, rng))  # an error while a step is under way

    Garbage(act)

    def stop() -> None:
        alive.clear()
        gc.set_threshold(*thresholds)
        gc.collect()

    return stop


WAYS = {"thread": by_thread, "handler": by_handler, "property": by_property, "finalizer": by_finalizer}
SECONDS = 1.0


def main() -> None:
    """Run the ways that were asked for."""
    global SECONDS
    parser = argparse.ArgumentParser(prog="python -m tests.meddle", description="See the first lines of the file.")
    parser.add_argument("names", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; all by default")
    parser.add_argument("--seconds", type=float, default=30.0, help="for all together")
    given = parser.parse_args()
    faulthandler.enable()
    sys.setswitchinterval(1e-5)
    runs = list(itertools.product(given.names or WAYS, CHANGES, (7, 200_000), ("dense", "sparse")))
    SECONDS = given.seconds / len(runs)
    for way, name, size, kind in runs:
        found = step_under(WAYS[way], name, size, kind)
        print(f"{way:10} {name:10} {size:7} {kind:6}  {found}", flush=True)


if __name__ == "__main__":
    main()
