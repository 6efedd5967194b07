"""Models that are converted, options edited in place, and memory that is shared: the next step goes as torch's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.support.torch_cases import (  # noqa: E402
    FEW,
    SETTINGS,
    Parameter,
    Side,
    Twins,
    assert_close,
    assert_same_bits,
    draw,
    error_of,
    give_grads,
    params,
)
from tests.torch.changes import SHAPES  # noqa: E402


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        # Nothing lies in front of the norm that it would take out again: noise in place of a gradient.
        return self.linear(self.norm(self.conv(x).tanh()).sigmoid().mean((2, 3)))


def train(side: Side, seed: int, n: int = 3) -> None:
    """Take steps with gradients from backward."""
    for i in range(n):
        side.optimizer.zero_grad()
        first = next(side.model.parameters())
        x = draw((5, 3, 6, 6), seed=10 * seed + i).to(first.dtype)
        side.model(x).square().mean().backward()
        side.optimizer.step()


MODEL_CHANGES: dict[str, Callable[[Any], object]] = {
    "load_state_dict": lambda model: model.load_state_dict({k: v * 1 for k, v in model.state_dict().items()}),
    "load_state_dict with assign": lambda model: model.load_state_dict(
        {k: v.clone() for k, v in model.state_dict().items()}, assign=True
    ),
    "channels_last": lambda model: model.to(memory_format=torch.channels_last),
    "share_memory": lambda model: model.share_memory(),
    "to cpu": lambda model: model.cpu(),
    "to float": lambda model: model.to(torch.float32),
    "double and back": lambda model: model.double().float(),
    "bfloat16 and back": lambda model: model.bfloat16().float(),
    "requires_grad_(False)": lambda model: model.conv.requires_grad_(False),
    "a parameter replaced": lambda model: setattr(model.linear, "bias", Parameter(torch.ones(2))),
    "a parameter deleted": lambda model: model.linear.register_parameter("bias", None),
    "reset_parameters": lambda model: torch.nn.init.constant_(model.linear.weight, 0.5),
    "eval": lambda model: model.eval(),
    "weights tied": lambda model: setattr(model.conv, "bias", model.norm.bias),
    "data tied": lambda model: setattr(model.conv.bias, "data", model.norm.bias.data),
}


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("what", MODEL_CHANGES)
def test_steps_after_a_model_was_changed(what: str, setting: str) -> None:
    twins = Twins(Net, **SETTINGS[setting])
    for round_ in range(3):
        for side in (twins.ours, twins.theirs):
            train(side, round_)
        for a, b in zip(twins.ours.model.parameters(), twins.theirs.model.parameters(), strict=True):
            assert_close(a, b, "model", rtol=1e-4, atol=1e-5)
        twins.check(rtol=1e-4, atol=1e-5)
        twins.level()
        twins.each(lambda side: MODEL_CHANGES[what](side.model))


@pytest.mark.parametrize("overwrite", [False, True], ids=["data", "swap"])
def test_a_model_that_is_converted_by_swapping(overwrite: bool) -> None:
    """`swap_tensors` refuses tensors that something holds a weak reference to."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(overwrite)
    try:
        twins = Twins(Net)
        for round_ in range(2):
            for side in (twins.ours, twins.theirs):
                train(side, round_)
            twins.check(rtol=1e-4, atol=1e-5)
            twins.level()
            for side in (twins.ours, twins.theirs):
                side.optimizer.zero_grad()
                side.model.to(memory_format=torch.channels_last)
                side.model.load_state_dict({k: v * 1 for k, v in side.model.state_dict().items()})
            twins.check(rtol=1e-4, atol=1e-5)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.mark.parametrize("setting", FEW)
def test_a_model_turned_to_double(setting: str) -> None:
    """Torch raises, as the moments stay as they were; after `load_state_dict` they are double too."""
    twins = Twins(Net, **SETTINGS[setting])
    for side in (twins.ours, twins.theirs):
        train(side, 0)
        side.model.double()
        with pytest.raises(RuntimeError, match=r"dtype|double|float64"):
            train(side, 1)
    twins = Twins(Net, **SETTINGS[setting])
    for side in (twins.ours, twins.theirs):
        train(side, 0)
    twins.check(rtol=1e-4, atol=1e-6)
    twins.level()
    for side in (twins.ours, twins.theirs):
        side.model.double()
        side.optimizer.load_state_dict(copy.deepcopy(side.optimizer.state_dict()))
        train(side, 1)
        assert all(param.dtype == torch.float64 for param in side.params)
    twins.check(rtol=1e-4, atol=1e-6)


def test_a_model_turned_to_double_before_the_first_step() -> None:
    twins = Twins(Net)
    for side in (twins.ours, twins.theirs):
        side.model.double()
        train(side, 0, 10)
    twins.check(rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_model_whose_parameters_take_shape_after_the_optimizer_was_made() -> None:
    def make() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.LazyConv2d(4, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))

    twins = Twins(make)
    twins.each(lambda side: side.optimizer.step())
    for side in (twins.ours, twins.theirs):
        torch.manual_seed(1)
        side.model(torch.ones(2, 3, 6, 6))
        train(side, 0)
    twins.check(rtol=1e-4, atol=1e-6)


def test_a_list_of_betas_edited_in_place() -> None:
    twins = Twins(lambda: params(*SHAPES))
    for beta in (0.9, 0.2, 0.5):
        for side in (twins.ours, twins.theirs):
            if not isinstance(side.group["betas"], list):
                side.group["betas"] = [0.8, 0.99]
            side.group["betas"][0] = beta
        twins.steps(3).check()


def test_a_complex_parameter_conjugated_where_it_lies() -> None:
    """By nothing but a bit. Torch cannot step it; neither may its memory be taken for what it is not."""

    def make(conjugate: Callable[[Any], Any]) -> Any:
        side = Twins(lambda: params((5,), dtype=torch.complex64)).steps(2).ours
        side.params[0].data = conjugate(side.params[0].data)
        give_grads(side.optimizer, 3)
        return side

    lazily, eagerly = make(torch.conj), make(torch.conj_physical)
    eagerly.optimizer.step()
    before = lazily.params[0].detach().resolve_conj().clone()
    if error_of(lazily.optimizer.step) is None:
        assert_close(lazily.params[0], eagerly.params[0], "parameter")
    else:
        assert_same_bits(lazily.params[0], before)


def test_tensor_options_edited_in_place() -> None:
    lr = torch.tensor(0.01, dtype=torch.float64)
    betas = tuple(torch.tensor(x, dtype=torch.float64) for x in (0.9, 0.99))
    twins = Twins(lambda: params(*SHAPES), lr=lr, betas=betas).steps(3)
    for side in (twins.ours, twins.theirs):
        side.group["lr"].fill_(0.3)
    twins.steps(2).check()
    for side in (twins.ours, twins.theirs):
        side.group["betas"][0].fill_(0.2)
        side.group["betas"][1].mul_(0.5)
    twins.steps(2).check()
    for side in (twins.ours, twins.theirs):
        side.group["lr"].data = torch.tensor(0.7, dtype=torch.float64)
    twins.steps(2).check()


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("what", ["parameters", "one into the other", "moments", "steps", "parameter and moment"])
def test_memory_that_is_shared_within_an_optimizer(what: str, setting: str) -> None:
    """Torch takes one parameter after the other."""

    def make() -> list[Any]:
        base = draw((64,))
        if what == "parameters":
            return [Parameter(base[:20]), *params((3,)), Parameter(base[:20])]
        if what == "one into the other":
            return [Parameter(base[:20]), *params((3,)), Parameter(base[10:30])]
        return params((20,), (3,), (20,))

    twins = Twins(make, **SETTINGS[setting]).steps(1)
    for side in (twins.ours, twins.theirs):
        first, _, last = (side.state[param] for param in side.params)
        if what == "moments":
            last["exp_avg"] = first["exp_avg"]
            last["exp_avg_sq"] = first["exp_avg_sq"]
        elif what == "steps":
            last["step"] = first["step"]
        elif what == "parameter and moment":
            side.params[2].data = first["exp_avg"]
    twins.steps(5).check()


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("shift", [0, 5, -5])
def test_memory_that_is_shared_between_optimizers(shift: int, setting: str) -> None:
    def make() -> list[Any]:
        return [Parameter(draw((64,))[10:30])]

    first, second = (Twins(make, **SETTINGS[setting]) for _ in range(2))
    for a, b in ((first.ours, second.ours), (first.theirs, second.theirs)):
        b.params[0].data = a.params[0].data.as_strided((20,), (1,), 10 + shift)
    for _ in range(5):
        first.steps(1).check()
        second.steps(1).check()
