"""fastadam.torch under what else works on optimizers: schedulers, scalers, hooks, closures, copies, profilers."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.optim.optimizer import (  # noqa: E402
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    FEW,
    NAMES,
    SETTINGS,
    Parameter,
    Side,
    Twins,
    assert_close,
    assert_same_bits,
    assert_same_groups,
    assert_same_snapshot,
    draw,
    give_grads,
    members,
    params,
    snapshot,
)

SHAPES = [(7,), (3, 4), ()]
schedulers = torch.optim.lr_scheduler

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 0.95),
    "StepLR": lambda o: schedulers.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [2, 5, 7]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.1, 1.0, 10),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 10, 2.0),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 6),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 4, 2),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=40),
    "OneCycleLR without momentum": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=40, cycle_momentum=False),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 1e-3, 0.1, step_size_up=3, mode="triangular2"),
    "CyclicLR without momentum": lambda o: schedulers.CyclicLR(o, 1e-3, 0.1, 3, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=1, factor=0.5),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.ConstantLR(o, 0.1, 3), schedulers.ExponentialLR(o, 0.9)], [4]
    ),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o, 0.1, 1.0, 5), schedulers.ExponentialLR(o, 0.9)]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.5, 5),
}


def test_no_schedule_is_forgotten() -> None:
    known = {
        name
        for name, value in vars(schedulers).items()
        if isinstance(value, type)
        and issubclass(value, schedulers.LRScheduler)
        and not name.startswith("_")
        and name != "LRScheduler"
    }
    assert known <= set(SCHEDULES)


def two_groups() -> list[dict[str, Any]]:
    return [{"params": params(*SHAPES)}, {"params": params((5,), seed=1), "lr": 0.2, "betas": (0.8, 0.9)}]


def advance(scheduler: Any, step: int) -> None:
    plateau = isinstance(scheduler, schedulers.ReduceLROnPlateau)
    scheduler.step(*([1.0 + (step > 3)] if plateau else []))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05, dtype=torch.float64)], ids=["number", "tensor"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers(schedule: str, lr: Any, name: str) -> None:
    twins = Twins(two_groups, name, lr=lr)
    pair = twins.each(lambda side: SCHEDULES[schedule](side.optimizer))
    rates = []
    for step in range(25):
        twins.steps(1).check()
        for scheduler in pair:
            if step == 12:
                scheduler.load_state_dict(copy.deepcopy(scheduler.state_dict()))
            advance(scheduler, step)
        rates.append(tuple(float(group["lr"]) for group in twins.ours.optimizer.param_groups))
    assert len(set(rates)) > 1


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers_over_copies(schedule: str) -> None:
    """A scheduler puts a wrapper of ``step`` on the optimizer; copies of that must work."""
    twins = Twins(two_groups, lr=0.05)
    pair = twins.each(lambda side: SCHEDULES[schedule](side.optimizer))
    twins.steps(2)
    for side, scheduler in zip((twins.ours, twins.theirs), pair, strict=True):
        advance(scheduler, 0)
        side.optimizer = copy.deepcopy(side.optimizer)
    pair = twins.each(lambda side: SCHEDULES[schedule](side.optimizer))
    twins.steps(2)
    for scheduler in pair:
        advance(scheduler, 1)
    twins.steps(2).check()


def test_a_scheduler_knows_that_the_optimizer_stepped() -> None:
    twins = Twins(two_groups)
    for side in (twins.ours, twins.theirs):
        scheduler = schedulers.StepLR(side.optimizer, 3)
        with pytest.warns(UserWarning, match="before `optimizer.step"):
            scheduler.step()


# Scaled gradients.


@pytest.mark.parametrize("clip", [False, True], ids=["", "clipped"])
@pytest.mark.parametrize("fused", [None, True], ids=["", "fused"])
@pytest.mark.parametrize("name", NAMES)
def test_grad_scaler(name: str, fused: bool | None, clip: bool) -> None:
    """A scaler hands its scale and its findings to optimizers that were made with ``fused=True``."""
    twins = Twins(lambda: params((7,), (3, 4)), name, fused=fused, weight_decay=0.1)
    scalers = twins.each(lambda side: torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3))
    for step in range(12):
        bad = step in (0, 4, 5)
        for side, scaler in zip((twins.ours, twins.theirs), scalers, strict=True):
            side.optimizer.zero_grad()
            loss = sum((param * draw(param.shape, seed=step)).sum() for param in side.params)
            scaler.scale(loss).backward()
            if bad:
                side.params[1].grad[0, 0] = torch.inf if step != 5 else torch.nan
            if clip:
                scaler.unscale_(side.optimizer)
                torch.nn.utils.clip_grad_norm_(side.params, 0.5)
            before = snapshot(side.optimizer)
            scaler.step(side.optimizer)
            scaler.update()
            if bad:
                after = snapshot(side.optimizer)
                for i in range(2):
                    assert_same_bits(after[f"param {i}"], before[f"param {i}"])
                    if step:
                        for key in ("exp_avg", "exp_avg_sq", "step"):
                            assert_same_bits(after[f"{key} {i}"], before[f"{key} {i}"])
        assert scalers[0].get_scale() == scalers[1].get_scale()
        for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
            assert_close(a, b, "parameter")
            if not (fused and bad):  # torch's fused kernel unscales on the way, and then does not
                assert_close(a.grad, b.grad, "gradient")
            if b in twins.theirs.state and a in twins.ours.state:
                assert twins.ours.state[a]["step"] == twins.theirs.state[b]["step"]


def test_grad_scaler_over_two_optimizers_one_of_which_is_skipped() -> None:
    pairs = [Twins(lambda: params(*SHAPES)) for _ in range(2)]
    scalers = [torch.amp.GradScaler("cpu", init_scale=4.0) for _ in range(2)]
    for step in range(4):
        for which, scaler in enumerate(scalers):
            sides = [(twins.ours, twins.theirs)[which] for twins in pairs]
            for i, side in enumerate(sides):
                give_grads(side.optimizer, 10 * step + i)
                if (step + i) % 2:
                    side.params[0].grad[0] = torch.inf
            scaler.scale(torch.ones(()))
            for side in sides:
                scaler.step(side.optimizer)
            scaler.update()
    for twins in pairs:
        twins.check()


# Hooks.


@pytest.fixture
def global_hooks() -> Iterator[list[str]]:
    calls: list[str] = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("global pre")),
        register_optimizer_step_post_hook(lambda *_: calls.append("global post")),
    ]
    yield calls
    for handle in handles:
        handle.remove()


KINDS: dict[str, Callable[[], list[Any]]] = {
    "plain": lambda: params(*SHAPES),
    "none with a gradient": lambda: params((0,)),
    "complex": lambda: params((3,), dtype=torch.complex64),
    "bfloat16": lambda: params((3,), dtype=torch.bfloat16),
    "strided": lambda: [Parameter(draw((3, 8))[:, ::2])],
    "meta": lambda: [Parameter(torch.ones(3, device="meta"))],
    "overlapping": lambda: [Parameter(base[:5]) for base in (draw((9,)),) for _ in range(2)],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_hooks_are_called_once(name: str, kind: str, global_hooks: list[str]) -> None:
    """Whatever way the step takes, and also where torch's own classes have been patched already."""
    getattr(torch.optim, name)(params((2,)))
    optimizer = getattr(fastadam.torch, name)(KINDS[kind]())
    optimizer.register_step_pre_hook(lambda *_: global_hooks.append("pre"))
    optimizer.register_step_post_hook(lambda *_: global_hooks.append("post"))
    for _ in range(2):
        for param in members(optimizer):
            param.grad = torch.ones_like(param)
        if kind == "none with a gradient":
            members(optimizer)[0].grad = None
        global_hooks.clear()
        optimizer.step()
        assert global_hooks == ["global pre", "pre", "post", "global post"]


def test_what_hooks_are_given() -> None:
    calls: list[Any] = []

    def closure() -> float:
        return 5.0

    twins = Twins(lambda: params(*SHAPES))
    for side in (twins.ours, twins.theirs):
        calls.clear()
        side.optimizer.register_step_pre_hook(lambda *given: calls.append(given))
        handle = side.optimizer.register_step_post_hook(lambda *given: calls.append(given))
        give_grads(side.optimizer, 1)
        assert side.optimizer.step(closure) == 5.0
        handle.remove()
        assert side.optimizer.step() is None
        found = [(given[0] is side.optimizer, given[1:]) for given in calls]
        with_closure, without = ((side.optimizer, closure), {}), ((side.optimizer,), {})
        assert found == [(True, x) for x in (with_closure, with_closure, without)]
        calls.clear()
        assert side.optimizer.step(closure=closure) == 5.0
        ((given, args, kwargs),) = calls
        assert given is args[0] is side.optimizer
        assert [*args[1:], *kwargs.values()] == [closure]


def test_pre_hooks_can_change_all() -> None:
    """The step takes up what a hook does right before it: gradients, options, the closure."""
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):

        def hook(optimizer: Any, args: Any, kwargs: Any, side: Side = side) -> Any:
            for i, param in enumerate(side.params):
                param.grad = draw(param.shape, seed=90 + i)
            side.group["lr"] = 0.3
            side.params[0].data = torch.ones(7)
            side.state[side.params[1]]["exp_avg"] = torch.ones(3, 4)
            return (optimizer, lambda: 7.0), {}

        handle = side.optimizer.register_step_pre_hook(hook)
        assert side.optimizer.step() == 7.0
        handle.remove()
    twins.check()
    twins.steps(2).check()


@pytest.mark.parametrize("when", ["pre", "post"])
def test_a_hook_that_raises_leaves_a_step_not_begun_or_taken(when: str, backend: str) -> None:
    def make() -> tuple[Any, Any]:
        param = torch.nn.Parameter(torch.linspace(-1, 1, 50))
        optimizer = fastadam.torch.Adam([param], lr=0.1)
        optimizer.backend = backend
        return param, optimizer

    def raise_it(*_: Any) -> None:
        raise KeyboardInterrupt

    def step(param: Any, optimizer: Any, t: int) -> None:
        param.grad = torch.full((50,), t + 0.5)
        optimizer.step()

    (param, optimizer), (expected, reference) = make(), make()
    for t in range(2):
        step(param, optimizer, t)
        step(expected, reference, t)
    hook = getattr(optimizer, f"register_step_{when}_hook")(raise_it)
    with pytest.raises(KeyboardInterrupt):
        step(param, optimizer, 2)
    if when == "post":
        step(expected, reference, 2)
    assert torch.equal(param, expected)
    hook.remove()
    step(param, optimizer, 3)
    step(expected, reference, 3)
    assert torch.equal(param, expected)
    for name, tensor in reference.state[expected].items():
        assert torch.equal(optimizer.state[param][name], tensor), name


def test_a_pre_hook_that_returns_something_else() -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(1)
    for side in (twins.ours, twins.theirs):
        side.optimizer.register_step_pre_hook(lambda *_: 5)
        before = snapshot(side.optimizer)
        with pytest.raises(RuntimeError, match="must return None or a tuple"):
            side.optimizer.step()
        assert_same_snapshot(snapshot(side.optimizer), before)


def test_post_hooks_see_the_step_taken() -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(1)
    for side in (twins.ours, twins.theirs):
        before = [param.detach().clone() for param in side.params]
        seen: list[bool] = []

        def hook(*_: Any, side: Side = side, before: list[Any] = before, seen: list[bool] = seen) -> None:
            seen.extend(not torch.equal(a, b) for a, b in zip(side.params, before, strict=True))
            seen.append(float(side.state[side.params[0]]["step"]) == 2.0)

        side.optimizer.register_step_post_hook(hook)
        give_grads(side.optimizer, 2)
        side.optimizer.step()
        assert seen == [True] * 4


def test_hooks_of_state_dicts() -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    calls: list[Any] = []
    for side in (twins.ours, twins.theirs):
        calls.clear()
        optimizer = side.optimizer
        optimizer.register_state_dict_pre_hook(lambda *given: calls.append(("pre", len(given))))
        optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "mine": 1})
        optimizer.register_load_state_dict_pre_hook(
            lambda o, saved: {**saved, "param_groups": [{**saved["param_groups"][0], "lr": 0.25}]}
        )
        optimizer.register_load_state_dict_post_hook(lambda *given: calls.append(("loaded", len(given))))
        saved = copy.deepcopy(optimizer.state_dict())
        assert saved["mine"] == 1
        optimizer.load_state_dict(saved)
        assert calls == [("pre", 1), ("loaded", 1)]
        assert side.group["lr"] == 0.25
    twins.steps(2).check()


def test_optimizers_in_backward() -> None:
    """One optimizer for each parameter, stepped as soon as its gradient is there."""
    twins = [Twins(lambda i=i: params((3, 3), seed=i)) for i in range(4)]
    for which in (0, 1):
        sides = [(pair.ours, pair.theirs)[which] for pair in twins]
        for side in sides:

            def hook(param: Any, side: Side = side) -> None:
                side.optimizer.step()
                side.optimizer.zero_grad()

            side.params[0].register_post_accumulate_grad_hook(hook)
        for step in range(4):
            x = draw((2, 3), seed=step)
            for side in sides:
                x = torch.tanh(x @ side.params[0])
            x.square().sum().backward()
            assert all(side.params[0].grad is None for side in sides)
    for pair in twins:
        pair.check(rtol=1e-4, atol=1e-6)


# Closures.


@pytest.mark.parametrize("outside", ["enable_grad", "no_grad"])
@pytest.mark.parametrize("name", NAMES)
def test_closures(name: str, outside: str) -> None:
    twins = Twins(lambda: params((7,), (3, 4)), name, lr=0.1)
    for _ in range(5):
        losses = []
        for side in (twins.ours, twins.theirs):

            def closure(side: Side = side) -> Any:
                assert torch.is_grad_enabled()
                side.optimizer.zero_grad()
                loss = sum((param - 1).square().sum() for param in side.params)
                loss.backward()
                return loss

            with getattr(torch, outside)():
                losses.append(side.optimizer.step(closure))
            assert losses[-1].requires_grad
        assert_close(losses[0], losses[1], "loss")
    twins.check()


def test_what_a_closure_changes_counts() -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):

        def closure(side: Side = side) -> str:
            give_grads(side.optimizer, 9, lambda step, i: i == 2)
            side.group["lr"] = 0.5
            side.params[0].data = torch.ones(7)
            side.optimizer.add_param_group({"params": params((2,), seed=8)})
            side.params[-1].grad = torch.ones(2)
            return "done"

        assert side.optimizer.step(closure) == "done"
    twins.check()


def test_a_closure_that_raises() -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(1)

    def closure() -> None:
        raise KeyError("mine")

    for side in (twins.ours, twins.theirs):
        before = snapshot(side.optimizer)
        with torch.no_grad(), pytest.raises(KeyError, match="mine"):
            side.optimizer.step(closure)
        assert torch.is_grad_enabled()
        assert_same_snapshot(snapshot(side.optimizer), before)
    twins.steps(1).check()


def test_a_closure_that_steps() -> None:
    """The inner step is taken first."""
    twins = Twins(lambda: params(*SHAPES)).steps(1)
    for side in (twins.ours, twins.theirs):
        give_grads(side.optimizer, 4)
        side.optimizer.step(side.optimizer.step)
    twins.check()


# Copies and files.


def roundtrip(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("how", [copy.deepcopy, roundtrip], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("stepped", [0, 3])
@pytest.mark.parametrize("name", NAMES)
def test_copies(name: str, stepped: int, how: Callable[[Any], Any]) -> None:
    twins = Twins(two_groups, name, amsgrad=True).steps(stepped)
    originals = [[side.optimizer, snapshot(side.optimizer)] for side in (twins.ours, twins.theirs)]
    for side in (twins.ours, twins.theirs):
        side.optimizer = how(side.optimizer)
    assert type(twins.ours.optimizer) is getattr(fastadam.torch, name)
    twins.steps(3).check()
    for optimizer, before in originals:
        assert_same_snapshot(snapshot(optimizer), before)
        give_grads(optimizer, 5)
        optimizer.step()
        optimizer.step()
    for a, b in zip(*(members(optimizer) for optimizer, _ in originals), strict=True):
        assert_close(a, b, "parameter of the original")
    twins.check()


def test_a_model_copied_with_its_optimizer() -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):
        given, optimizer = copy.deepcopy((side.params, side.optimizer))
        assert all(a is b for a, b in zip(given, members(optimizer), strict=True))
        side.optimizer = optimizer
    twins.steps(2).check()


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, roundtrip], ids=["copy", "deepcopy", "pickle"])
def test_copies_keep_threads_and_backend(how: Callable[[Any], Any]) -> None:
    optimizer = fastadam.torch.Adam(params(*SHAPES))
    optimizer.threads = 2
    optimizer.backend = "numpy"
    copied = how(optimizer)
    assert (copied.threads, copied.backend) == (2, "numpy")


def test_saved_with_weights_only() -> None:
    twins = Twins(two_groups, amsgrad=True).steps(3)
    for side in (twins.ours, twins.theirs):
        file = io.BytesIO()
        torch.save(side.optimizer.state_dict(), file)
        file.seek(0)
        loaded = torch.load(file, weights_only=True)
        side.optimizer = type(side.optimizer)(two_groups(), lr=0.7)
        side.optimizer.load_state_dict(loaded)
    twins.each(lambda side: [group.pop("foreach") for group in side.optimizer.param_groups])
    twins.each(lambda side: [group.update(foreach=False) for group in side.optimizer.param_groups])
    twins.steps(3).check()


def test_a_pickle_of_an_old_version() -> None:
    """Which has neither hooks nor newer options."""
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    for side in (twins.ours, twins.theirs):
        old = side.optimizer.__getstate__()
        old["defaults"] = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
        group = {key: old["param_groups"][0][key] for key in ("params", *old["defaults"])}
        old["param_groups"] = [group]
        for state in old["state"].values():
            state["step"] = int(state["step"])
        new = type(side.optimizer).__new__(type(side.optimizer))
        new.__setstate__(old)
        side.optimizer = new
        group["foreach"] = False
    twins.steps(2).check()


# Everything else.


@pytest.mark.parametrize("name", NAMES)
def test_profilers_show_the_step(name: str) -> None:
    optimizer = getattr(fastadam.torch, name)(params(*SHAPES))
    give_grads(optimizer, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    found = [event.name for event in profile.events()]
    assert found.count(f"Optimizer.step#{name}.step") == 1
    assert found.count(f"Optimizer.zero_grad#{name}.zero_grad") == 1


def test_autograd_profiler_shows_the_step() -> None:
    optimizer = fastadam.torch.Adam(params(*SHAPES))
    give_grads(optimizer, 1)
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
    assert [event.name for event in profile.function_events].count("Optimizer.step#Adam.step") == 1


@pytest.mark.parametrize("passes", ["by position", "by name", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_subclasses_that_override_step(name: str, passes: str, global_hooks: list[str]) -> None:
    """Torch calls the hooks for each class on the way whose ``step`` it has patched."""
    counts = []

    def subclass(base: type) -> type:
        class Mine(base):  # type: ignore[misc, valid-type]
            calls = 0

            def step(self, closure: Any = None) -> Any:
                self.calls += 1
                if passes == "by position":
                    return super().step(closure)
                return super().step(closure=closure) if passes == "by name" else super().step()

        return Mine

    twins = Twins(lambda: params(*SHAPES), name)
    for side in (twins.ours, twins.theirs):
        mine = subclass(type(side.optimizer))(params(*SHAPES), foreach=False)
        mine.register_step_pre_hook(lambda *_: global_hooks.append("pre"))
        global_hooks.clear()
        for step in range(3):
            give_grads(mine, step)
            mine.step()
        counts.append(list(global_hooks))
        assert mine.calls == 3
        side.optimizer = mine
    assert counts[0] == counts[1]
    twins.check()


def test_subclasses_that_override_other_methods() -> None:
    def subclass(base: type) -> type:
        class Mine(base):  # type: ignore[misc, valid-type]
            def __init__(self, given: Any, lr: float = 0.25, extra: int = 3) -> None:
                super().__init__(given, lr=lr, foreach=False)
                self.extra = extra

            def zero_grad(self, set_to_none: bool = False) -> None:
                super().zero_grad(set_to_none)

            def add_param_group(self, param_group: Any) -> None:
                super().add_param_group({**param_group, "weight_decay": 0.5})

            @property
            def rates(self) -> list[float]:
                return [group["lr"] for group in self.param_groups]

        return Mine

    twins = Twins(lambda: params(*SHAPES))
    for side in (twins.ours, twins.theirs):
        side.optimizer = subclass(type(side.optimizer))(params(*SHAPES))
        side.optimizer.add_param_group({"params": params((4,), seed=3)})
        assert side.optimizer.rates == [0.25, 0.25]
    twins.steps(3).check()
    twins.each(lambda side: side.optimizer.zero_grad())
    assert all(not param.grad.any() for param in twins.ours.params)


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("chosen", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_zero_grad(set_to_none: bool, chosen: dict[str, Any]) -> None:
    twins = Twins(lambda: params((7,), (3, 4)), **chosen)
    for _ in range(3):
        twins.steps(1)
        for side in (twins.ours, twins.theirs):
            memory = [param.grad.data_ptr() for param in side.params]
            side.optimizer.zero_grad(set_to_none=set_to_none)
            if set_to_none:
                assert all(param.grad is None for param in side.params)
            else:
                assert all(not param.grad.any() for param in side.params)
                assert [param.grad.data_ptr() for param in side.params] == memory
            side.optimizer.step()
        twins.check()


def test_clip_grad_norm() -> None:
    twins = Twins(lambda: params((7,), (3, 4)))
    for step in range(5):
        norms = []
        for side in (twins.ours, twins.theirs):
            give_grads(side.optimizer, step)
            norms.append(torch.nn.utils.clip_grad_norm_(side.params, 0.1))
            torch.nn.utils.clip_grad_value_(side.params, 0.05)
            side.optimizer.step()
        assert_same_bits(*norms)
    twins.check()


def linear(*wraps: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> Any:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
        for wrap in wraps:
            wrap(model[0])
        return model

    return make


PARAMETRIZATIONS: dict[str, Callable[[Any], Any]] = {
    "weight_norm": torch.nn.utils.parametrizations.weight_norm,
    "spectral_norm": torch.nn.utils.parametrizations.spectral_norm,
    "orthogonal": torch.nn.utils.parametrizations.orthogonal,
    "pruned": lambda layer: __import__("torch.nn.utils.prune").nn.utils.prune.l1_unstructured(
        layer, "weight", 0.5
    ),
}


@pytest.mark.parametrize("wrap", PARAMETRIZATIONS)
def test_parametrizations(wrap: str) -> None:
    twins = Twins(linear(PARAMETRIZATIONS[wrap]), lr=0.01)
    for step in range(5):
        for side in (twins.ours, twins.theirs):
            side.optimizer.zero_grad()
            torch.manual_seed(step)
            side.model(draw((3, 4), seed=step)).square().sum().backward()
            side.optimizer.step()
    twins.check(rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("setting", FEW)
def test_averaged_models(setting: str) -> None:
    twins = Twins(linear(), **SETTINGS[setting])
    swa = torch.optim.swa_utils
    averages = []
    for side in (twins.ours, twins.theirs):
        plain = swa.AveragedModel(side.model)
        ema = swa.AveragedModel(side.model, multi_avg_fn=swa.get_ema_multi_avg_fn(0.9))
        scheduler = swa.SWALR(side.optimizer, 0.02, 2)
        for step in range(6):
            give_grads(side.optimizer, step)
            side.optimizer.step()
            scheduler.step()
            for average in (plain, ema):
                average.update_parameters(side.model)
        averages.append([*plain.parameters(), *ema.parameters()])
    twins.check()
    for a, b in zip(*averages, strict=True):
        assert_close(a, b, "average")


def test_groups_added_in_mid_training() -> None:
    twins = Twins(lambda: params(*SHAPES), lr=0.05)
    for i, options in enumerate([{"lr": 0.2}, {"amsgrad": True}, {"weight_decay": 0.1, "betas": (0.5, 0.6)}]):
        twins.steps(2).check()
        for side in (twins.ours, twins.theirs):
            side.optimizer.add_param_group({"params": iter(params((4,), (2, 2), seed=i + 1)), **options})
        twins.steps(2, lambda step, j: (step + j) % 3 == 0).check()
    for side in (twins.ours, twins.theirs):
        with pytest.raises(ValueError, match="more than one parameter group"):
            side.optimizer.add_param_group({"params": side.params[:1]})
        with pytest.raises(TypeError, match="must be a dict"):
            side.optimizer.add_param_group(params((2,)))
        side.optimizer.add_param_group({"params": Parameter(torch.ones(3))})
    twins.steps(2).check()


def test_named_parameters() -> None:
    def make() -> Any:
        return list(linear()().named_parameters())

    twins = Twins(make).steps(2)
    twins.check()
    assert twins.ours.group["param_names"] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for side in (twins.ours, twins.theirs):
        side.optimizer.add_param_group({"params": [("mine", Parameter(torch.ones(3)))]})
        assert side.optimizer.state_dict()["param_groups"][1]["param_names"] == ["mine"]
        side.optimizer.load_state_dict(copy.deepcopy(side.optimizer.state_dict()))
    twins.steps(2).check()
    assert_same_groups(twins.ours.optimizer, twins.theirs.optimizer)


GIVEN: dict[str, Callable[[list[Any]], Any]] = {
    "a generator": lambda given: (param for param in given),
    "an iterator": iter,
    "a tuple": tuple,
    "values of a dict": lambda given: dict(enumerate(given)).values(),
    "pairs": lambda given: ((str(i), param) for i, param in enumerate(given)),
    "groups of generators": lambda given: [{"params": (param for param in given[:2])}, {"params": given[2]}],
    "a generator of groups": lambda given: ({"params": [param]} for param in given),
    "a ParameterList": lambda given: torch.nn.ParameterList(given),
}


@pytest.mark.parametrize("form", GIVEN)
def test_forms_of_parameters(form: str) -> None:
    Twins(lambda: GIVEN[form](params(*SHAPES))).steps(3).check()


def test_several_optimizers_over_the_same_parameters() -> None:
    twins = Twins(lambda: params(*SHAPES)).steps(2)
    others = twins.each(lambda side: type(side.optimizer)(side.params[:2], lr=0.1, foreach=False))
    for step in range(4):
        twins.steps(1)
        for other in others:
            give_grads(other, step)
            other.step()
    twins.check()


def test_threads_of_python() -> None:
    """Each with its own optimizer."""
    twins = [Twins(lambda i=i: params(*SHAPES, seed=i)) for i in range(4)]
    errors: list[Exception] = []

    def work(pair: Twins) -> None:
        try:
            for step in range(30):
                give_grads(pair.ours.optimizer, step)
                pair.ours.optimizer.step()
        except Exception as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(pair,)) for pair in twins]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors
    for pair in twins:
        for step in range(30):
            give_grads(pair.theirs.optimizer, step)
            pair.theirs.optimizer.step()
        pair.check()


def test_wrapped_and_bound_steps() -> None:
    twins = Twins(lambda: params(*SHAPES))
    for side in (twins.ours, twins.theirs):
        give_grads(side.optimizer, 1)
        torch.no_grad()(side.optimizer.step)()
        step = side.optimizer.step
        step()
        type(side.optimizer).step(side.optimizer)
        assert hasattr(side.optimizer.step, "__func__")
    twins.check()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("warm", [False, True], ids=["from the first step", "after a step"])
def test_compiled_functions_that_step(warm: bool) -> None:
    """With a graph or without, with the right numbers."""
    dynamo = pytest.importorskip("torch._dynamo")
    twins = Twins(lambda: params((7,), (3, 4)), weight_decay=0.1)
    if warm:
        twins.steps(2)
    for side in (twins.ours, twins.theirs):
        dynamo.reset()

        def train(x: Any, side: Side = side) -> Any:
            loss = sum((param * x).sin().sum() for param in side.params)
            loss.backward()
            side.optimizer.step()
            side.optimizer.zero_grad()
            return loss.detach() * 2

        compiled = torch.compile(train, backend="eager")
        for step in range(4):
            result = compiled(draw((), seed=step))
            assert torch.isfinite(result)
    dynamo.reset()
    twins.check(rtol=1e-4, atol=1e-6)
    if not warm:
        twins.steps(2).check(rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step() -> None:
    dynamo = pytest.importorskip("torch._dynamo")
    twins = Twins(lambda: params((7,), (3, 4)), lr=0.01)
    for side in (twins.ours, twins.theirs):
        dynamo.reset()
        compiled = torch.compile(side.optimizer.step, backend="eager")
        for step in range(3):
            give_grads(side.optimizer, step)
            compiled()
        side.group["lr"] = 0.5
        give_grads(side.optimizer, 7)
        compiled()
        give_grads(side.optimizer, 8)
        side.optimizer.step()
    dynamo.reset()
    twins.check(rtol=1e-4, atol=1e-5)  # torch's, compiled, computes bias corrections in float32


def test_a_compiled_model() -> None:
    """Gradients come out of another engine; the optimizer is not compiled."""
    pytest.importorskip("torch._dynamo").reset()
    twins = Twins(linear())
    for side in (twins.ours, twins.theirs):
        model = torch.compile(side.model, backend="eager")
        for step in range(3):
            side.optimizer.zero_grad()
            model(draw((3, 4), seed=step)).square().sum().backward()
            side.optimizer.step()
    torch._dynamo.reset()
    twins.check(rtol=1e-4, atol=1e-6)


def test_gradients_accumulated_in_place() -> None:
    """The same memory in every step, other numbers."""
    twins = Twins(lambda: params((7,), (3, 4)))
    for step in range(5):
        for side in (twins.ours, twins.theirs):
            for i, param in enumerate(side.params):
                (param * draw(param.shape, seed=10 * step + i)).sum().backward()
            side.optimizer.step()
    twins.check()


def test_training_under_autocast() -> None:
    twins = Twins(linear())
    for step in range(4):
        for side in (twins.ours, twins.theirs):
            side.optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = side.model(draw((3, 4), seed=step)).float().square().sum()
                loss.backward()
                side.optimizer.step()
    twins.check(rtol=1e-2, atol=5e-3)
    assert all(param.dtype == torch.float32 for param in twins.ours.params)
