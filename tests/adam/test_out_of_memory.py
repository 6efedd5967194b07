"""Out of memory at any allocation of state: everything is as before, and the next try goes right."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam.memory import host
from tests.support.bits import assert_same_state, random_arrays, snapshot
from tests.support.processes import LONG

SHAPES: list[tuple[int, ...]] = [(3,), (4,)]


class Allocations:
    """Lets the nth allocation fail, counted from 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails, self.done = -1, 0
        zeros = host.aligned_zeros

        def aligned_zeros(*args: Any) -> Any:
            self.done += 1
            if self.done - 1 == self.fails:
                raise MemoryError("no memory")
            return zeros(*args)

        monkeypatch.setattr(host, "aligned_zeros", aligned_zeros)

    def fail_at(self, which: int) -> None:
        self.fails, self.done = which, 0


def make(backend: str) -> fastadam.Adam:
    """Return an optimizer with two groups, one of them of two dtypes."""
    mixed = [*random_arrays(SHAPES, np.float64, 0), *random_arrays(SHAPES, np.float32, 1)]
    opt = fastadam.Adam([{"params": mixed}, {"params": random_arrays(SHAPES, np.complex64, 2)}], backend=backend)
    opt.step(grads(3))
    return opt


def grads(seed: int) -> list[Any]:
    dtypes = (np.float64, np.float32, np.complex64)
    return [array for i, dtype in enumerate(dtypes) for array in random_arrays(SHAPES, dtype, seed + i)]


def edit(opt: fastadam.Adam) -> None:
    for group in opt.param_groups:
        group["amsgrad"] = True


def with_maximum(backend: str) -> dict[str, Any]:
    opt = make(backend)
    edit(opt)
    opt.step(grads(5))
    return opt.state_dict()


ACTS: dict[str, tuple[int, Callable[[fastadam.Adam, Any], object]]] = {
    "amsgrad switched on": (3, lambda opt, saved: (edit(opt), opt.step(grads(7)))),
    "load_state_dict": (3, lambda opt, saved: opt.load_state_dict(saved)),
    "add_param_group": (3, lambda opt, saved: opt.add_param_group({"params": np.ones(9), "amsgrad": True})),
}


@pytest.mark.parametrize("name", ACTS)
def test_no_memory_for_state_changes_nothing(backend: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count, act = ACTS[name]
    saved = with_maximum(backend)
    for which in range(count):
        opt, twin = make(backend), make(backend)
        options = [dict(group) for group in opt.param_groups]
        before = snapshot(opt)
        with monkeypatch.context() as patch:
            Allocations(patch).fail_at(which)
            with pytest.raises(MemoryError):
                act(opt, saved)
        assert_same_state(snapshot(opt), before)
        for group, old in zip(opt.param_groups, options, strict=True):
            group.update(old)
        for each in (opt, twin):
            each.step(grads(9))
            act(each, saved)
        assert_same_state(snapshot(opt), snapshot(twin))
    opt = make(backend)
    with monkeypatch.context() as patch:
        allocations = Allocations(patch)
        act(opt, saved)
    assert allocations.done == count, "there are other allocations to try"


def test_no_memory_when_an_optimizer_or_a_buffer_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    params = random_arrays(SHAPES, np.float64, 0)
    before = [param.copy() for param in params]
    for act, count in ((lambda: fastadam.Adam(params, amsgrad=True), 3), (lambda: fastadam.pack(params), 2)):
        for which in range(count):
            with monkeypatch.context() as patch:
                Allocations(patch).fail_at(which)
                with pytest.raises(MemoryError):
                    act()
        act()
    for param, old in zip(params, before, strict=True):
        np.testing.assert_array_equal(param, old)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the process cannot see how much it uses")
def test_a_system_without_memory(backend: str) -> None:
    """With the real limit of addresses, in a process of its own."""
    script = """
        import resource, sys
        import numpy as np, fastadam

        param, grad = np.ones(1 << 23), np.ones(1 << 23)
        opt = fastadam.Adam([param], backend=sys.argv[1])
        opt.step([grad])
        before = [param.copy(), opt.state[0]["exp_avg"].copy(), opt.state[0]["exp_avg_sq"].copy()]
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), used + (32 << 20)))
        opt.param_groups[0]["amsgrad"] = True
        for act in (
            lambda: opt.step([grad]),
            lambda: opt.add_param_group({"params": np.broadcast_to(0.0, 1 << 30).copy()}),
            lambda: fastadam.Adam([param]),
            lambda: fastadam.pack([param]),
        ):
            try:
                act()
            except MemoryError:
                print("no memory")
        opt.param_groups[0]["amsgrad"] = False
        now = [param, opt.state[0]["exp_avg"], opt.state[0]["exp_avg_sq"]]
        assert all((a == b).all() for a, b in zip(before, now)) and opt.state[0]["step"] == 1
        assert len(opt.param_groups) == 1 and "max_exp_avg_sq" not in opt.state[0]
        opt.step([grad])
        assert opt.state[0]["step"] == 2
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), backend],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n").count("no memory") == 4
