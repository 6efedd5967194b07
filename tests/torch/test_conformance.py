"""fastadam.torch computes what torch.optim computes: constructors, options, dtypes, gradients that are missing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from fastadam.step.after import Averaging  # noqa: E402
from fastadam.step.gradient_settings import Choices  # noqa: E402
from fastadam.torch.options import PRECISION  # noqa: E402
from fastadam.torch.sparse import SparseChoice  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    FEW,
    NAMES,
    REALS,
    SETTINGS,
    SHAPES,
    SHORT,
    Parameter,
    Twins,
    assert_close,
    assert_same_bits,
    draw,
    dtype_name,
    error_of,
    give_grads,
    members,
    options_for,
    params,
    snapshot,
)


def both(name: str) -> tuple[Any, Any]:
    return getattr(fastadam.torch, name), getattr(torch.optim, name)


@pytest.mark.parametrize("name", NAMES)
def test_signature(name: str) -> None:
    ours, theirs = (inspect.signature(adam) for adam in both(name))
    extras = (*Choices._fields, *Averaging._fields, *PRECISION, *SparseChoice._fields)
    assert list(ours.parameters) == [*theirs.parameters, *extras]
    for key in extras:
        assert ours.parameters[key].kind is inspect.Parameter.KEYWORD_ONLY
    for key, expected in theirs.parameters.items():
        actual = ours.parameters[key]
        assert (actual.kind, actual.default) == (expected.kind, expected.default), key


@pytest.mark.parametrize("name", NAMES)
def test_it_is_one_of_torchs(name: str) -> None:
    ours, theirs = both(name)
    assert issubclass(ours, theirs)
    assert ours.__name__ == name


@pytest.mark.parametrize("name", NAMES)
def test_defaults(name: str) -> None:
    ours, theirs = (adam(params((2,))) for adam in both(name))
    assert ours.defaults == theirs.defaults
    assert list(ours.param_groups[0]) == list(theirs.param_groups[0])
    assert repr(ours) == repr(theirs)
    assert not ours.state


@pytest.mark.parametrize("name", NAMES)
class TestTorchsOwnTable:
    """The settings and errors that torch tests its optimizers with."""

    @pytest.fixture
    def entry(self, name: str) -> Any:
        # Slow to import, so not while tests are collected; it needs the package expecttest.
        table = pytest.importorskip("torch.testing._internal.common_optimizers")
        return next(entry for entry in table.optim_db if entry.optim_cls is getattr(torch.optim, name))

    @pytest.mark.parametrize("dtype", REALS, ids=dtype_name)
    def test_settings(self, entry: Any, name: str, dtype: Any) -> None:
        settings = entry.optim_inputs_func(device="cpu", dtype=dtype)
        assert len(settings) >= 5
        for setting in settings:
            if not setting.kwargs.get("capturable"):
                Twins(lambda: params(*SHAPES, dtype=dtype), name, **setting.kwargs).steps(30).check()

    def test_errors(self, entry: Any, name: str) -> None:
        ours, theirs = both(name)
        errors = entry.optim_error_inputs_func(device="cpu", dtype=torch.float32)
        assert len(errors) >= 10
        for error in errors:
            given = error.optimizer_error_input
            for adam in (theirs, ours):
                first = given.params if given.params is not None else params((2,))
                expect = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
                with expect(error.error_type, match=error.error_regex):
                    adam(first, **given.kwargs)


BAD: dict[str, dict[str, Any]] = {
    "negative lr": {"lr": -1.0},
    "NaN lr": {"lr": float("nan")},
    "negative eps": {"eps": -1e-8},
    "NaN eps": {"eps": float("nan")},
    "beta1 of one": {"betas": (1.0, 0.9)},
    "negative beta1": {"betas": (-0.1, 0.9)},
    "NaN beta2": {"betas": (0.9, float("nan"))},
    "beta2 of one": {"betas": (0.9, 1.0)},
    "an int among the betas": {"betas": (0, 0.9)},
    "negative weight decay": {"weight_decay": -0.1},
    "foreach and fused": {"foreach": True, "fused": True},
    "foreach with a tensor beta": {"betas": (torch.tensor(0.9), torch.tensor(0.9)), "foreach": True},
    "a beta of two elements": {"betas": (torch.tensor([0.9, 0.9]), torch.tensor(0.9))},
    "an option that there is not": {"momentum": 0.9},
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", BAD)
def test_bad_options(name: str, bad: str) -> None:
    ours, theirs = (error_of(lambda adam=adam: adam(params((2,)), **BAD[bad])) for adam in both(name))
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)


BAD_PARAMS: dict[str, Callable[[], Any]] = {
    "none": list,
    "one tensor": lambda: torch.ones(2),
    "a set": lambda: [{"params": {torch.ones(2)}}],
    "a number": lambda: [1.0],
    "no leaf": lambda: [torch.ones(2, requires_grad=True) * 2],
    "a group without params": lambda: [{"lr": 0.1}],
    "some without names": lambda: [("w", torch.ones(2)), torch.ones(2)],
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", BAD_PARAMS)
def test_bad_params(name: str, bad: str) -> None:
    ours, theirs = (error_of(lambda adam=adam: adam(BAD_PARAMS[bad]())) for adam in both(name))
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)


@pytest.mark.parametrize(
    "chosen", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_what_chooses_among_torchs_implementations_is_accepted(name: str, chosen: dict[str, bool]) -> None:
    Twins(lambda: params(*SHAPES), name, **chosen, amsgrad=True).steps(5).check()


@pytest.mark.parametrize(
    "chosen", [{"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}], ids=str
)
def test_what_chooses_among_torchs_implementations_changes_no_bit(chosen: dict[str, bool]) -> None:
    found = []
    for options in (chosen, {}):
        optimizer = fastadam.torch.Adam(params(*SHAPES), **options)
        for step in range(5):
            give_grads(optimizer, step)
            optimizer.step()
        found.append(snapshot(optimizer))
    for what, value in found[0].items():
        if isinstance(value, torch.Tensor):
            assert_same_bits(value, found[1][what], what)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_thirty_steps(name: str, setting: str, dtype: Any) -> None:
    twins = Twins(lambda: params(*SHAPES, dtype=dtype), name, **options_for(name, setting))
    twins.steps(1).check()
    twins.steps(29).check()


@pytest.mark.parametrize("shape", [*SHAPES, (5, 0, 3), (1, 1, 1), (1000,), (20_000,)], ids=str)
@pytest.mark.parametrize("setting", FEW)
def test_thirty_steps_of_one_parameter(setting: str, shape: tuple[int, ...]) -> None:
    Twins(lambda: params(shape), **SETTINGS[setting]).steps(30).check()


@pytest.mark.parametrize("setting", ["tensor lr", "tensor betas", "tensor lr and betas"])
def test_tensor_options_of_float32(setting: str) -> None:
    options = options_for("Adam", setting)
    options = {
        key: tuple(x.float() for x in value) if key == "betas" else value.float() if key == "lr" else value
        for key, value in options.items()
    }
    Twins(lambda: params(*SHAPES), **options).steps(30).check()


def test_a_tensor_lr_that_requires_a_gradient() -> None:
    Twins(lambda: params(*SHAPES), lr=torch.tensor(0.01, requires_grad=True)).steps(5).check()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e18])
@pytest.mark.parametrize("setting", FEW)
def test_large_and_small_gradients(setting: str, scale: float) -> None:
    twins = Twins(lambda: params(*SHAPES, dtype=torch.float64), **SETTINGS[setting])
    for step in range(10):
        for side in (twins.ours, twins.theirs):
            give_grads(side.optimizer, step)
            for param in side.params:
                param.grad.mul_(scale)
            side.optimizer.step()
    for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
        assert_close(a, b, "parameter")
        for key in ("exp_avg", "exp_avg_sq"):
            assert_close(twins.ours.state[a][key], twins.theirs.state[b][key], key, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("value", [0.0, torch.inf, -torch.inf, torch.nan], ids=str)
@pytest.mark.parametrize("setting", FEW)
def test_zeros_infinities_and_nan_in_gradients(setting: str, value: float) -> None:
    twins = Twins(lambda: params((5,)), **SETTINGS[setting])
    for step in range(3):
        for side in (twins.ours, twins.theirs):
            give_grads(side.optimizer, step)
            side.params[0].grad[1:3] = value
            side.optimizer.step()
        for a, b in zip(twins.ours.params, twins.theirs.params, strict=True):
            assert_close(a, b, "parameter")
            # An average that is infinite becomes NaN in torch, which adds a part of the difference to it.
            assert_same_bits(*(side.state[p]["exp_avg"][[0, 3, 4]].isfinite() for side, p in both_of(twins)))


def both_of(twins: Twins) -> list[Any]:
    return [(side, side.params[0]) for side in (twins.ours, twins.theirs)]


def short_grads(param: Any, seed: int) -> Any:
    """Return gradients of size 0.5 to 1.5, so that the second moment is not lost in rounding."""
    grad = draw(param.shape, torch.float32, seed)
    return (grad.sign() * (0.5 + grad.abs().clamp(max=1))).to(param.dtype)


@pytest.mark.parametrize("dtype", SHORT, ids=dtype_name)
@pytest.mark.parametrize("reference", ["float32", "torch"])
@pytest.mark.parametrize("setting", ["plain", "weight decay", "decoupled", "amsgrad", "maximize"])
def test_short_floats(setting: str, reference: str, dtype: Any) -> None:
    """Against the same steps taken in float32, and against torch's, which rounds after each operation."""
    options = {
        "lr": 0.05,
        "betas": (0.8, 0.9),
        "eps": 1e-3,
        **options_for("Adam", setting if setting in SETTINGS else "default"),
    }
    options["lr"] = 0.05
    ours = fastadam.torch.Adam(params(*SHAPES, dtype=dtype), **options)
    start = params(*SHAPES, dtype=dtype)
    wide = [Parameter(param.detach().float()) for param in start] if reference == "float32" else start
    theirs = torch.optim.Adam(wide, foreach=False, **options)
    for step in range(5):
        for i, (a, b) in enumerate(zip(members(ours), wide, strict=True)):
            a.grad = short_grads(a, 10 * step + i)
            b.grad = a.grad.to(b.dtype)
        ours.step()
        theirs.step()
    # Five times half a unit of a number up to four, and some hundredths of the way of 0.25.
    atol = 5 * 4 * torch.finfo(dtype).eps / 2
    for i, (a, b) in enumerate(zip(members(ours), wide, strict=True)):
        assert a.dtype == dtype
        assert_close(a.float(), b.float(), f"parameter {i}", rtol=0.0, atol=atol)
        for key, value in theirs.state[b].items():
            if key == "step":
                assert ours.state[a][key] == value
            else:
                assert ours.state[a][key].dtype == dtype
                # Weight decay of 0.1 lets differences of the parameter into the moments.
                assert_close(ours.state[a][key].float(), value.float(), key, rtol=0.0, atol=atol)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("setting", FEW)
def test_mixed_dtypes_in_one_group(name: str, setting: str) -> None:
    def make() -> list[Parameter]:
        return [param for i, dtype in enumerate(DTYPES * 2) for param in params((7,), (3, 4), dtype=dtype, seed=i)]

    Twins(make, name, **options_for(name, setting)).steps(30, lambda step, i: (step + i) % 5 == 0).check()


def test_all_dtypes_in_one_group() -> None:
    def make() -> list[Parameter]:
        return [
            param
            for i, dtype in enumerate((*DTYPES, *SHORT))
            for param in params((7,), (3, 4), dtype=dtype, seed=i)
        ]

    Twins(make, lr=0.05, betas=(0.8, 0.9), eps=1e-2).steps(3).check()


@pytest.mark.parametrize("name", NAMES)
def test_groups_with_their_own_options(name: str) -> None:
    def make() -> list[dict[str, Any]]:
        return [
            {"params": params((7,), (3, 4), dtype=dtype, seed=i), **options_for("AdamW", setting)}
            for i, setting in enumerate(SETTINGS)
            for dtype in REALS
        ]

    Twins(make, name, lr=0.03).steps(30, lambda step, i: (step * i) % 7 == 3).check()


PATTERNS: dict[str, Any] = {
    "never": lambda step, i: False,
    "always the first": lambda step, i: i == 0,
    "always the last": lambda step, i: i == len(SHAPES) - 1,
    "always": lambda step, i: True,
    "by turns": lambda step, i: step % len(SHAPES) == i,
    "all but one by turns": lambda step, i: step % len(SHAPES) != i,
    "later ones later": lambda step, i: step < i + 2,
    "none from the fourth step on": lambda step, i: step > 3 and i % 2 == 0,
    "many patterns": lambda step, i: (step >> i) & 1 == 1,
    "every second step": lambda step, i: step % 2 == 1,
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("setting", FEW)
def test_gradients_that_are_none(setting: str, pattern: str) -> None:
    twins = Twins(lambda: params(*SHAPES), **SETTINGS[setting])
    for _ in range(40):
        twins.steps(1, PATTERNS[pattern]).check()


def test_many_small_parameters() -> None:
    twins = Twins(lambda: params(*[(i % 9,) for i in range(300)]), weight_decay=0.1)
    twins.steps(5, lambda step, i: (i * step) % 11 == 1).check()


def test_a_parameter_given_twice() -> None:
    """Torch warns, and then takes two steps for it in one."""

    def make() -> list[Any]:
        (param,) = params((3,))
        return [param, param]

    with pytest.warns(UserWarning, match="duplicate parameters"):
        twins = Twins(make)
    twins.steps(3).check()
