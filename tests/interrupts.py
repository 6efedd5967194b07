"""Interrupts at every point at which Python can raise one, and what must be true after each.

A trace function in native code counts the interpreter's events (lines, calls, returns, native ones included) and
makes a signal arrive at the nth of them. As a real one does, it takes effect where the interpreter looks for
signals next. `python -m tests.interrupts` tries every event of every scenario and prints how many there were.
"""

from __future__ import annotations

import ctypes
import functools
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastadam
from tests.support.bits import bits, random_arrays

NEVER = -1


@functools.cache
def _tracer() -> tuple[Any, np.ndarray]:
    """Return a native trace function and its memory: how many events are left until the signal, and which one."""
    from numba import cfunc, types

    from fastadam.backends.numba.memory import numbers

    memory = np.array([NEVER, signal.SIGINT], np.int64)
    place = memory.__array_interface__["data"][0]
    arrive = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(
        ctypes.cast(ctypes.pythonapi.PyErr_SetInterruptEx, ctypes.c_void_p).value or 0
    )

    @cfunc(types.int32(types.intp, types.intp, types.int32, types.intp))
    def trace(argument: Any, frame: Any, event: Any, more: Any) -> Any:
        here = numbers(place, 2, types.int64)
        here[0] -= 1
        if here[0] == 0:
            arrive(types.int32(here[1]))
        return types.int32(0)

    return trace, memory


def events_of(work: Callable[[], object], stop_at: int = NEVER, number: int = signal.SIGINT) -> int:
    """Call `work`; at the event `stop_at`, counted from 1, let a signal arrive. Return how many events there were.

    Raises
    ------
    BaseException
        What `work` and the signal's handler raise.
    """
    trace, memory = _tracer()
    set_trace, set_profile = ctypes.pythonapi.PyEval_SetTrace, ctypes.pythonapi.PyEval_SetProfile
    function, nothing = ctypes.c_void_p(trace.address), ctypes.c_void_p()
    before = sys.gettrace(), sys.getprofile()  # a debugger's, or coverage's
    memory[:] = stop_at if stop_at > 0 else -1, number
    first = int(memory[0])
    try:
        set_profile(function, None)
        set_trace(function, None)
        work()
    finally:
        set_trace(nothing, None)
        set_profile(nothing, None)
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return first - int(memory[0])


class InterruptedWorkError(Exception):
    """What the handler of a signal raises."""


class Scenario(NamedTuple):
    """What is interrupted: `make` returns an optimizer in mid-training and the work that is next."""

    name: str
    make: Callable[[], tuple[Any, Callable[[], object]]]
    see: Callable[[Any], dict[str, np.ndarray]]
    go_on: Callable[[Any], object]


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Whether two snapshots agree in every bit."""
    return first.keys() == second.keys() and all(
        np.array_equal(bits(first[name]), bits(second[name])) for name in first
    )


class Expected(NamedTuple):
    """What a run without a signal sees: before the work, after it, and after going on from there."""

    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]
    end: dict[str, np.ndarray]


def expect(scenario: Scenario) -> Expected:
    """Run a scenario undisturbed."""
    optimizer, work = scenario.make()
    before = scenario.see(optimizer)
    work()
    after = scenario.see(optimizer)
    scenario.go_on(optimizer)
    return Expected(before, after, scenario.see(optimizer))


def try_with(
    scenario: Scenario, expected: Expected, disturb: Callable[[Callable[[], object]], object], where: str
) -> bool:
    """Let `disturb` call the work; return whether an interrupt came through, and check what must be true then.

    Everything is as before or as after, in every bit; and going on from there gives the bits of a run that was not
    interrupted.
    """
    where = f"{scenario.name}, {where}"
    optimizer, work = scenario.make()
    came = False
    try:
        disturb(work)
    except BaseException:  # NumPy's C code may raise an error of its own in the place of the interrupt
        came = True
    found = scenario.see(optimizer)
    if not same(found, expected.after):
        assert came, f"{where}: no interrupt, and another result"
        assert same(found, expected.before), f"{where}: neither as before nor as after"
        work()
        assert same(scenario.see(optimizer), expected.after), f"{where}: done again, it is another"
    scenario.go_on(optimizer)
    assert same(scenario.see(optimizer), expected.end), f"{where}: goes on as another"
    return came


def try_at(scenario: Scenario, expected: Expected, event: int, number: int = signal.SIGINT) -> bool:
    """Interrupt the scenario by a signal at an event, and check what `try_with` does, and that nothing was lost.

    What the signal's handler raises is an error like others, which code that takes it for its own would keep.
    """
    raised: list[int] = []
    dropped: list[object] = []
    kept = False

    def handle(number: int, frame: Any) -> None:
        raised.append(number)
        raise InterruptedWorkError

    def disturb(work: Callable[[], object]) -> None:
        nonlocal kept
        old, hook = signal.signal(number, handle), sys.unraisablehook
        sys.unraisablehook = dropped.append  # where Python drops an interrupt itself
        try:
            events_of(work, event, number)
        finally:
            kept = signal.getsignal(number) is handle
            signal.signal(number, old)
            sys.unraisablehook = hook

    came = try_with(scenario, expected, disturb, f"event {event}")
    assert kept, f"{scenario.name}, event {event}: the handler was not given back"
    assert came or dropped or not raised, f"{scenario.name}, event {event}: what the handler raised is lost"
    return came


SHAPES = [(3,), (2, 2), ()]


def see(optimizer: fastadam.Adam) -> dict[str, np.ndarray]:
    """Return copies of all numbers and counters, and what NumPy does about floating-point errors.

    A third moment that was never used does not count.
    """
    found = {"errors": np.array([np.geterr()[kind] != "ignore" for kind in sorted(np.geterr())], np.uint8)}
    found["skipped"] = np.array(optimizer.skipped_steps)
    for i, group in enumerate(optimizer._groups):
        if group.packed is not None:
            found[f"grad {i}"] = np.array(group.packed.grad)
        for j, member in enumerate(group.members):
            found[f"param {i}.{j}"] = member.array.copy()
            found[f"step {i}.{j}"] = np.array(group.steps[j])
            for name in group.moments:
                moment = group.moment(name, j).copy()
                if name != "max_exp_avg_sq" or moment.any():
                    found[f"{name} {i}.{j}"] = moment
    return found


def see_rows(optimizer: fastadam.Adam) -> dict[str, np.ndarray]:
    """Return what `see` does and the counters of rows, after those that are behind have caught up."""
    optimizer.catch_up()
    found = see(optimizer)
    for i, group in enumerate(optimizer._groups):
        for j in range(len(group.members)):
            found[f"own steps {i}.{j}"] = np.array(group.entry(j).get("row_step", group.step_of(j)))
    return found


def row_scenarios(backend: str) -> Iterator[Scenario]:
    """Yield the scenarios of steps over rows."""
    first, second = [4, 1, 1], [0, 1, 5]

    def grads(indices: list[int], seed: int) -> list[Any]:
        of_rows, whole = random_arrays([(3, 2), (4,)], np.float64, seed)
        return [fastadam.Rows(indices, of_rows), whole]

    def made(**options: Any) -> fastadam.Adam:
        optimizer = fastadam.Adam(random_arrays([(6, 2), (4,)], np.float64, 0), backend=backend, **options)
        for seed in range(3):
            optimizer.step(grads(first, seed))
        return optimizer

    def scenario(name: str, work: Callable[[fastadam.Adam, Any], object], **options: Any) -> Scenario:
        def make() -> tuple[fastadam.Adam, Callable[[], object]]:
            return (optimizer := made(**options)), functools.partial(work, optimizer, grads(second, 5))

        return Scenario(f"{backend}: {name}", make, see_rows, lambda optimizer: optimizer.step(grads(second, 9)))

    exact: dict[str, Any] = {"lazy": "exact", "weight_decay": 0.1}
    mask = {0: np.array([True, False, True, True, False, False])}
    whole = random_arrays([(6, 2), (4,)], np.float64, 7)
    yield scenario("step over rows", lambda opt, given: opt.step(given))
    yield scenario(
        "step over rows with all that it can do",
        lambda opt, given: opt.step(given, 8.0, True),
        max_grad_norm=0.5,
        ema_decay=0.9,
    )
    yield scenario("step with a mask", lambda opt, given: opt.step(whole, mask=mask), state_dtype="bfloat16")
    yield scenario("step of rows that have stepped apart", lambda opt, given: opt.step(whole))
    yield scenario("step over rows that catch up", lambda opt, given: opt.step(given), **exact)
    yield scenario(
        "step over all rows, which catch up", lambda opt, given: opt.step(whole), ema_decay=0.9, **exact
    )
    yield scenario("catch_up", lambda opt, given: opt.catch_up(), **exact)
    yield scenario("catch_up of zeros", lambda opt, given: opt.catch_up(), lazy="exact")
    yield scenario(
        "catch_up with averages", lambda opt, given: opt.catch_up(), ema_decay=0.9, ema_warmup=True, **exact
    )


def once(optimizer: fastadam.Adam, position: int, **rows: Any) -> Callable[[], object]:
    """Return what resizes a parameter, if that has not been done yet."""
    before = optimizer.param_groups[0]["params"][position]

    def work() -> None:
        if optimizer.param_groups[0]["params"][position] is before:
            optimizer.resize(position, **rows)

    return work


def scenarios(backend: str, folder: Path) -> Iterator[Scenario]:
    """Yield the scenarios of the NumPy face."""

    def grads(seed: int, *, dtypes: Any = (np.float64,) * 3) -> list[Any]:
        return [
            random_arrays([shape], dtype, seed + i)[0]
            for i, (shape, dtype) in enumerate(zip(SHAPES, dtypes, strict=True))
        ]

    mixed = (np.float64, np.float32, np.complex64)

    def scenario(
        name: str,
        change: Callable[[fastadam.Adam], Callable[[], object]],
        *,
        dtypes: Any = (np.float64,) * 3,
        steps: int = 1,
        **options: Any,
    ) -> Scenario:
        def make() -> tuple[fastadam.Adam, Callable[[], object]]:
            optimizer = fastadam.Adam(grads(0, dtypes=dtypes), backend=backend, **options)
            for _ in range(steps):
                optimizer.step(grads(10, dtypes=dtypes))
            return optimizer, change(optimizer)

        def go_on(optimizer: fastadam.Adam) -> None:
            more = [np.ones(2)] if len(optimizer.param_groups) > 1 else []
            optimizer.step([*grads(20, dtypes=dtypes), *more])

        return Scenario(f"{backend}: {name}", make, see, go_on)

    def edited(**options: Any) -> Callable[[fastadam.Adam], Callable[[], object]]:
        def change(optimizer: fastadam.Adam) -> Callable[[], object]:
            optimizer.param_groups[0].update(options)
            return functools.partial(optimizer.step, grads(1))

        return change

    def saved() -> dict[str, Any]:
        other = fastadam.Adam(grads(30), backend=backend, amsgrad=True, lr=0.5)
        other.step(grads(40))
        other.step([None, *grads(50)[1:]])
        return other.state_dict()

    yield scenario("step", lambda opt: functools.partial(opt.step, grads(1)))
    yield scenario("first step", lambda opt: functools.partial(opt.step, grads(1)), steps=0)
    yield scenario(
        "step with several dtypes",
        lambda opt: functools.partial(opt.step, grads(1, dtypes=mixed)),
        dtypes=mixed,
        amsgrad=True,
    )
    yield scenario(
        "step with state of 8 bits",
        lambda opt: functools.partial(opt.step, grads(1, dtypes=mixed)),
        dtypes=mixed,
        amsgrad=True,
        state_dtype="int8",
    )
    yield scenario("step that splits rows", lambda opt: functools.partial(opt.step, [grads(1)[0], None, None]))
    yield scenario(
        "step with odd gradients",
        lambda opt: functools.partial(opt.step, [np.arange(6.0)[::2], np.ones((2, 2)).T, np.float64(2)]),
    )
    yield scenario("step with a schedule", lambda opt: functools.partial(opt.step, grads(1)), lr=lambda n: 1 / n)
    yield scenario("step after an edit", edited(lr=0.25, eps=1e-3))
    yield scenario("step after another kind was chosen", edited(amsgrad=True, weight_decay=0.1))
    yield scenario("load_state_dict", lambda opt: functools.partial(opt.load_state_dict, saved()))

    def load(optimizer: fastadam.Adam) -> Callable[[], object]:
        optimizer.load_state_dict(saved())
        return functools.partial(optimizer.step, grads(1))

    yield scenario("step after load_state_dict", load)

    def add(optimizer: fastadam.Adam) -> Callable[[], object]:
        def work() -> None:
            if len(optimizer.param_groups) == 1:
                optimizer.add_param_group({"params": np.zeros(2)})

        return work

    yield scenario("add_param_group", add)

    def add_named(optimizer: fastadam.Adam) -> Callable[[], object]:
        def work() -> None:
            if len(optimizer.param_groups) == 1:
                new = {"params": fastadam.pack([np.zeros(2)]), "lr": 0.5, "amsgrad": True}
                optimizer.add_param_group(new)

        return work

    yield scenario("add_param_group with options", add_named)

    def add_and_step(optimizer: fastadam.Adam) -> Callable[[], object]:
        optimizer.add_param_group({"params": np.zeros(2)})
        return functools.partial(optimizer.step, [*grads(1), np.ones(2)])

    yield scenario("step after add_param_group", add_and_step)

    def packed(name: str, bad: float = 0.5, **options: Any) -> Scenario:
        def make() -> tuple[fastadam.Adam, Callable[[], object]]:
            flat = fastadam.pack(grads(0))
            flat.grad[...] = 0.5
            optimizer = fastadam.Adam(flat, backend=backend, **options)
            optimizer.step()
            flat.grad[3] = bad
            # The first one would be logged, and what a handler raises within logging is kept by it.
            optimizer._gradient_settings.skipped_steps = 1
            return optimizer, functools.partial(optimizer.step, zero_grad=bool(options))

        return Scenario(f"{backend}: {name}", make, see, lambda optimizer: optimizer.step())

    yield packed("packed step")
    yield packed("packed step with all that it can do", max_grad_norm=0.5, ema_decay=0.9)
    yield packed("packed step that is skipped", bad=np.nan, skip_nonfinite=True, ema_decay=0.9)
    yield scenario(
        "step with averages that goes on from another scale",
        lambda opt: functools.partial(opt.step, [grads(1)[0], None, grads(1)[2]], 8.0),
        max_grad_norm=0.5,
        ema_decay=0.9,
        ema_warmup=True,
        steps=2,
    )

    def averaged(optimizer: fastadam.Adam) -> Callable[[], object]:
        def work() -> None:
            with optimizer.averaged():
                pass

        return work

    yield scenario("averaged", averaged, ema_decay=0.9, steps=2)
    yield scenario("ema_decay is set", lambda opt: functools.partial(setattr, opt, "ema_decay", 0.5))
    yield scenario(
        "ema_decay is taken back", lambda opt: functools.partial(setattr, opt, "ema_decay", None), ema_decay=0.9
    )

    for state_dtype in (None, "int8"):
        name = f"resize with state in {state_dtype}"
        rows = {"keep": [1], "grow": 1}  # as many as before, for the steps that follow
        yield scenario(
            name, lambda opt, rows=rows: once(opt, 1, **rows), state_dtype=state_dtype, ema_decay=0.9, steps=2
        )
    yield scenario("reset", lambda opt: functools.partial(opt.reset, [0, 2]), ema_decay=0.9, steps=2)

    def packed_and_resized() -> tuple[fastadam.Adam, Callable[[], object]]:
        optimizer = fastadam.Adam(fastadam.pack(grads(0)), backend=backend)
        optimizer.step(grads(1))
        return optimizer, once(optimizer, 1, keep=[1], grow=1)

    yield Scenario(f"{backend}: resize of a buffer", packed_and_resized, see, lambda opt: opt.step(grads(20)))

    def remove(optimizer: fastadam.Adam) -> Callable[[], object]:
        optimizer.add_param_group({"params": np.zeros(2)})
        optimizer.step([*grads(1), np.ones(2)])

        def work() -> None:
            if len(optimizer.param_groups) > 1:
                optimizer.remove_param_group(1)

        return work

    yield scenario("remove_param_group", remove)

    try:
        import safetensors  # noqa: F401
    except ImportError:
        return
    path = folder / f"{backend}.safetensors"
    other = fastadam.Adam(grads(60), backend=backend, amsgrad=True, weight_decay=0.5)
    other.step(grads(70))
    fastadam.save(path, other)
    yield scenario("load", lambda opt: functools.partial(fastadam.load, path, opt))


def torch_scenarios(backend: str) -> Iterator[Scenario]:
    """Yield the scenarios of the PyTorch face."""
    import torch

    import fastadam.torch

    def see_tensors(optimizer: Any) -> dict[str, np.ndarray]:
        found = {}
        for i, param in enumerate(param for group in optimizer.param_groups for param in group["params"]):
            found[f"param {i}"] = param.detach().numpy().copy()
            for name, value in optimizer.state.get(param, {}).items():
                found[f"{name} {i}"] = value.numpy().copy()
            if param.grad is not None:
                found[f"grad {i}"] = param.grad.to_dense().numpy().copy()
            if param in optimizer.ema:
                found[f"ema {i}"] = optimizer.ema[param].numpy().copy()
        found["skipped"] = np.array(optimizer.skipped_steps)
        found["grad mode"] = np.array(torch.is_grad_enabled(), np.uint8)
        return found

    def give_gradients(optimizer: Any, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for group in optimizer.param_groups:
            for param in group["params"]:
                numbers = torch.randn(param.shape, generator=generator, dtype=param.dtype)
                param.grad = torch.empty_like(param).copy_(numbers)

    def go_on(optimizer: Any) -> None:
        give_gradients(optimizer, 9)
        optimizer.step()

    def scenario(
        name: str,
        steps: int,
        change: Callable[[Any], object],
        work: Callable[[Any], Callable[[], object]] = lambda optimizer: optimizer.step,
        **options: Any,
    ) -> Scenario:
        def make() -> tuple[Any, Callable[[], object]]:
            torch.set_grad_enabled(True)  # so that a failure is told once, and not by all that follow
            params = [torch.nn.Parameter(torch.from_numpy(each)) for each in random_arrays(SHAPES, np.float64, 0)]
            params.append(torch.nn.Parameter(torch.ones(2, 3).T))
            optimizer = fastadam.torch.Adam(params, **options)
            optimizer.backend = backend
            for seed in range(steps):
                give_gradients(optimizer, seed)
                optimizer.step()
            give_gradients(optimizer, 8)
            change(optimizer)
            return optimizer, work(optimizer)

        return Scenario(f"torch, {backend}: {name}", make, see_tensors, go_on)

    def take_gradient(optimizer: Any) -> None:
        optimizer.param_groups[0]["params"][1].grad = None

    def spoil_gradient(optimizer: Any) -> None:
        optimizer.param_groups[0]["params"][1].grad.fill_(torch.nan)
        optimizer.step()  # the first one is logged, and logging keeps what is raised in it

    def zeroing(optimizer: Any) -> Callable[[], object]:
        return functools.partial(optimizer.step, zero_grad=True)

    def averaged(optimizer: Any) -> Callable[[], object]:
        def evaluate() -> None:
            with optimizer.averaged():
                pass

        return evaluate

    def lay_out_otherwise(optimizer: Any) -> None:
        param = optimizer.param_groups[0]["params"][1]
        param.grad = param.grad.T.contiguous().T

    def make_sparse(optimizer: Any) -> None:
        param = optimizer.param_groups[0]["params"][1]
        param.grad = param.grad.to_sparse(1)

    def step_sparse_before(optimizer: Any) -> None:
        for _ in range(2):
            make_sparse(optimizer)
            optimizer.step()
            give_gradients(optimizer, 7)
        make_sparse(optimizer)

    yield scenario("first step", 0, lambda opt: None)
    yield scenario("first step with a sparse gradient", 3, make_sparse, sparse="lazy")
    yield scenario("step with a sparse gradient", 3, step_sparse_before, sparse="lazy")
    yield scenario("clipped step with a sparse gradient", 3, step_sparse_before, sparse="lazy", max_grad_norm=0.5)
    yield scenario("step with odd gradients", 3, lay_out_otherwise)
    yield scenario("step", 3, lambda opt: None)
    yield scenario("step without a gradient", 3, take_gradient)
    yield scenario("step after an edit", 3, lambda opt: opt.param_groups[0].update(lr=0.5))
    yield scenario("step after another kind was chosen", 3, lambda opt: opt.param_groups[0].update(amsgrad=True))
    whole: dict[str, Any] = {"max_grad_norm": 0.5, "ema_decay": 0.9}
    yield scenario("first step with all that it can do", 0, lambda opt: None, zeroing, **whole)
    yield scenario("step with all that it can do", 3, lambda opt: None, zeroing, **whole)
    yield scenario("step of averages without a gradient", 3, take_gradient, zeroing, **whole)
    yield scenario("step that is skipped", 3, spoil_gradient, zeroing, skip_nonfinite=True, ema_decay=0.9)
    yield scenario("averaged", 3, lambda opt: None, averaged, **whole)


def try_every(scenario: Scenario, most: int | None = None) -> tuple[int, int]:
    """Interrupt a scenario at all events, or at `most`; return how many, and how often it came through."""
    for _ in range(2):  # once for what is done only once in a process
        _, work = scenario.make()
        total = events_of(work) + 2
    tried = range(1, total) if most is None else sorted(set(np.linspace(1, total, most).astype(int).tolist()))
    expected = expect(scenario)
    return len(tried), sum(try_at(scenario, expected, event) for event in tried)


def main() -> None:
    """Try every event of every scenario on every backend that there is."""
    events = interrupts = 0
    with tempfile.TemporaryDirectory() as folder:
        for backend, state in fastadam.available_backends().items():
            if state != "available":
                continue
            found = [*scenarios(backend, Path(folder)), *row_scenarios(backend)]
            try:
                found += torch_scenarios(backend)
            except ImportError:
                print("without torch")
            for scenario in found:
                tried, came = try_every(scenario)
                events, interrupts = events + tried, interrupts + came
                print(f"{scenario.name}: {tried} events, {came} interrupts", flush=True)
    print(
        f"in all {events} events, {interrupts} interrupts: all was as before or as after, and went on as it must"
    )


if __name__ == "__main__":
    main()
