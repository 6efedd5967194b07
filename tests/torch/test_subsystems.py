"""fastadam.torch under what else works on optimizers: profilers, subclasses, clipping, averages, threads."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")


import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    FEW,
    FEW_SHAPES,
    NAMES,
    SETTINGS,
    Parameter,
    Twins,
    assert_close,
    assert_same_bits,
    assert_same_groups,
    draw,
    give_grads,
    linear,
    params,
)

# Everything else.


@pytest.mark.parametrize("name", NAMES)
def test_profilers_show_the_step(name: str) -> None:
    optimizer = getattr(fastadam.torch, name)(params(*FEW_SHAPES))
    give_grads(optimizer, 1)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    found = [event.name for event in profile.events()]
    assert found.count(f"Optimizer.step#{name}.step") == 1
    assert found.count(f"Optimizer.zero_grad#{name}.zero_grad") == 1


def test_autograd_profiler_shows_the_step() -> None:
    optimizer = fastadam.torch.Adam(params(*FEW_SHAPES))
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

    twins = Twins(lambda: params(*FEW_SHAPES), name)
    for side in (twins.ours, twins.theirs):
        mine = subclass(type(side.optimizer))(params(*FEW_SHAPES), foreach=False)
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

    twins = Twins(lambda: params(*FEW_SHAPES))
    for side in (twins.ours, twins.theirs):
        side.optimizer = subclass(type(side.optimizer))(params(*FEW_SHAPES))
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
        twins.check()
        twins.level()


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
    twins = Twins(lambda: params(*FEW_SHAPES), lr=0.05)
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
    Twins(lambda: GIVEN[form](params(*FEW_SHAPES))).steps(3).check()


def test_several_optimizers_over_the_same_parameters() -> None:
    twins = Twins(lambda: params(*FEW_SHAPES)).steps(2)
    others = twins.each(lambda side: type(side.optimizer)(side.params[:2], lr=0.1, foreach=False))
    for step in range(4):
        twins.steps(1)
        for other in others:
            give_grads(other, step)
            other.step()
    twins.check()


def test_threads_of_python() -> None:
    """Each with its own optimizer."""
    twins = [Twins(lambda i=i: params(*FEW_SHAPES, seed=i)) for i in range(4)]
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
    twins = Twins(lambda: params(*FEW_SHAPES))
    for side in (twins.ours, twins.theirs):
        give_grads(side.optimizer, 1)
        torch.no_grad()(side.optimizer.step)()
        step = side.optimizer.step
        step()
        type(side.optimizer).step(side.optimizer)
        assert hasattr(side.optimizer.step, "__func__")
    twins.check()


def test_gradients_accumulated_in_place() -> None:
    """The same memory in every step, other numbers."""
    twins = Twins(lambda: params((7,), (3, 4)))
    for step in range(5):
        for side in (twins.ours, twins.theirs):
            for i, param in enumerate(side.params):
                (param * draw(param.shape, seed=10 * step + i)).sum().backward()
            side.optimizer.step()
    twins.check()
