"""What the tests of fastadam.torch share: settings, parameters, and two optimizers led through the same steps."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402 - it needs torch

Tensor = torch.Tensor
Parameter = torch.nn.Parameter
Skip = Callable[[int, int], bool]

NAMES = ("Adam", "AdamW")
REALS = (torch.float32, torch.float64)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
SHORT = (torch.bfloat16, torch.float16)
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
SHAPES: list[tuple[int, ...]] = [(), (0,), (1,), (7,), (3, 4), (2, 3, 4, 5)]
FEW_SHAPES: list[tuple[int, ...]] = [(7,), (3, 4), ()]

# Tensors among the options are float64, or torch itself would round the bias corrections to float32.
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "lr": {"lr": 0.01},
    "large lr": {"lr": 1},
    "no lr": {"lr": 0.0},
    "betas": {"betas": (0.5, 0.9)},
    "no betas": {"betas": (0.0, 0.0)},
    "eps": {"eps": 1e-3},
    "no eps": {"eps": 0.0},
    "weight decay": {"weight_decay": 0.1},
    "decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True, "lr": 0.05},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True},
    "maximize, weight decay": {"maximize": True, "weight_decay": 0.1},
    "amsgrad, weight decay": {"amsgrad": True, "weight_decay": 0.1},
    "all": {
        "lr": 0.02,
        "betas": (0.8, 0.95),
        "eps": 1e-6,
        "weight_decay": 0.3,
        "amsgrad": True,
        "maximize": True,
        "decoupled_weight_decay": True,
    },
    "tensor lr": {"lr": torch.tensor(0.01, dtype=torch.float64)},
    "tensor lr of one element": {"lr": torch.tensor([0.01], dtype=torch.float64), "amsgrad": True},
    "tensor betas": {
        "betas": (torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.99, dtype=torch.float64)),
    },
    "tensor lr and betas": {
        "lr": torch.tensor(0.01, dtype=torch.float64),
        "betas": (torch.tensor([[[0.9]]], dtype=torch.float64), torch.tensor([[0.99]], dtype=torch.float64)),
        "weight_decay": 0.1,
        "decoupled_weight_decay": True,
    },
}
FEW = ("default", "decoupled", "all")

# Around zero, sums of numbers of size one that nearly cancel have no digits left but these.
TOLERANCES: dict[torch.dtype, dict[str, float]] = {
    torch.float32: {"rtol": 1e-5, "atol": 2e-6},
    torch.float64: {"rtol": 1e-12, "atol": 1e-14},
    torch.complex64: {"rtol": 1e-5, "atol": 2e-6},
    torch.complex128: {"rtol": 1e-12, "atol": 1e-14},
    torch.bfloat16: {"rtol": 0.05, "atol": 0.02},
    torch.float16: {"rtol": 0.01, "atol": 0.005},
}


def options_for(name: str, setting: str) -> dict[str, Any]:
    """Return a copy of the options, without what the class `name` does not take."""
    options = copy.deepcopy(SETTINGS[setting])
    if name == "AdamW":
        options.pop("decoupled_weight_decay", None)
    return options


def draw(shape: Any, dtype: Any = torch.float32, seed: int = 0) -> Tensor:
    """Return normal random numbers, the same in every call."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def params(*shapes: Any, dtype: Any = torch.float32, seed: int = 0) -> list[Parameter]:
    """Return new parameters."""
    return [Parameter(draw(shape, dtype, 100 * seed + i)) for i, shape in enumerate(shapes)]


def two_groups() -> list[dict[str, Any]]:
    """Return two parameter groups, of which the second has options of its own."""
    return [{"params": params(*FEW_SHAPES)}, {"params": params((5,), seed=1), "lr": 0.2, "betas": (0.8, 0.9)}]


def linear(*wraps: Callable[[Any], Any]) -> Callable[[], Any]:
    """Return what makes a small network; each of `wraps` is applied to its first layer."""

    def make() -> Any:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4))
        for wrap in wraps:
            wrap(model[0])
        return model

    return make


def grad_for(param: Tensor, seed: int) -> Tensor:
    return draw(param.shape, param.dtype, 10_000 + seed)


def take_care(optimizer: Any, way: str) -> None:
    """Have all be looked at anew in the next step, if that is the `way` it goes."""
    if way == "with care":
        optimizer.backend = optimizer.backend


def members(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the parameters of all groups."""
    return [param for group in optimizer.param_groups for param in group["params"]]


def give_grads(optimizer: torch.optim.Optimizer, seed: int, skip: Skip = lambda step, i: False) -> None:
    """Set gradients that depend on nothing but the seed and the parameter's place."""
    for i, param in enumerate(members(optimizer)):
        param.grad = None if skip(seed, i) else grad_for(param, 97 * seed + i)


def finish(optimizer: Any, give: Callable[[Any, int], None], steps: int = 5) -> Any:
    """Take steps with gradients from `give`; return the optimizer."""
    for step in range(steps):
        give(optimizer, step)
        optimizer.step()
    return optimizer


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name without ``torch.`` in front."""
    return str(dtype).removeprefix("torch.")


class Side:
    """One of two optimizers that are led through the same steps.

    Attributes
    ----------
    watched : dict
        Further tensors to compare: what must change alike, or must not change.
    """

    def __init__(self, adam: type, given: Any, options: dict[str, Any]) -> None:
        self.model: Any = None
        if isinstance(given, torch.nn.Module):
            self.model = given
            given = list(given.parameters())
        self.optimizer = adam(given, **copy.deepcopy(options))
        self.watched: dict[str, Tensor] = {}

    @property
    def params(self) -> list[Tensor]:
        return members(self.optimizer)

    @property
    def group(self) -> dict[str, Any]:
        return self.optimizer.param_groups[0]

    @property
    def state(self) -> Any:
        return self.optimizer.state


class Twins:
    """fastadam's optimizer and torch's, over parameters that were made alike.

    Parameters
    ----------
    make : callable
        Returns what the constructor takes, or a module; called once for each of the two.
    name : str
        ``"Adam"`` or ``"AdamW"``.
    **options
        For both constructors.
    """

    def __init__(self, make: Callable[[], Any], name: str = "Adam", **options: Any) -> None:
        torchs = {"foreach": False, **options} if not options.get("fused") else options
        self.ours = Side(getattr(fastadam.torch, name), make(), options)
        self.theirs = Side(getattr(torch.optim, name), make(), torchs)
        self.step = 0

    def each(self, action: Callable[[Side], Any]) -> list[Any]:
        """Do the same to both; return what came of it."""
        return [action(self.ours), action(self.theirs)]

    def steps(self, n: int = 1, skip: Skip = lambda step, i: False) -> Twins:
        """Take steps with the same gradients, which must not be changed by that."""
        for _ in range(n):
            self.step += 1
            for side in (self.ours, self.theirs):
                give_grads(side.optimizer, self.step, skip)
                before = [None if param.grad is None else param.grad.clone() for param in side.params]
                side.optimizer.step()
                for param, grad in zip(side.params, before, strict=True):
                    assert (param.grad is None) == (grad is None)
                    if grad is not None and not grad.is_meta:
                        assert_same_bits(param.grad, grad, "a gradient was written to")
        return self

    def level(self) -> None:
        """Give torch's side the very numbers of ours, after they were compared.

        What comes next may enlarge a difference in the last bit without bounds (rounding to bfloat16 does, or a
        gradient that nearly vanishes), and whether there is one depends on the processor that torch computes on.
        """
        level(self.ours.optimizer, self.theirs.optimizer)
        if self.ours.model is not None:
            for ours, theirs in zip(self.ours.model.buffers(), self.theirs.model.buffers(), strict=True):
                theirs.copy_(ours)

    def check(self, **tolerance: float) -> None:
        """Compare parameters, states, and what is watched."""
        ours, theirs = self.ours, self.theirs
        assert_same_groups(ours.optimizer, theirs.optimizer)
        for i, (a, b) in enumerate(zip(ours.params, theirs.params, strict=True)):
            assert_close(a, b, f"parameter {i}", **tolerance)
            assert (a in ours.state) == (b in theirs.state), f"parameter {i} has state in one of the two"
            if b in theirs.state:
                assert_state_close(ours.state[a], theirs.state[b], f"parameter {i}", **tolerance)
        assert len(ours.state) == len(theirs.state)
        assert ours.watched.keys() == theirs.watched.keys()
        for what, b in theirs.watched.items():
            assert_close(ours.watched[what], b, what, **tolerance)


def level(source: torch.optim.Optimizer, target: torch.optim.Optimizer) -> None:
    """Give `target` the parameters and states of `source`, number by number; see `Twins.level`."""
    with torch.no_grad():
        for ours, theirs in zip(members(source), members(target), strict=True):
            theirs.copy_(ours)
            for key, value in source.state.get(ours, {}).items():
                if isinstance(value, Tensor):
                    target.state[theirs][key].copy_(value)


def assert_close(actual: Tensor, expected: Tensor, what: str, **tolerance: float) -> None:
    """Compare values to rounding, dtypes and shapes exactly."""
    torch.testing.assert_close(
        actual.detach().resolve_conj().resolve_neg(),
        expected.detach().resolve_conj().resolve_neg(),
        equal_nan=True,
        msg=lambda message: f"{what}: {message}",
        **(tolerance or TOLERANCES.get(expected.dtype, {"rtol": 0.0, "atol": 0.0})),
    )


def assert_state_close(actual: Any, expected: Any, what: str, **tolerance: float) -> None:
    """Compare what is remembered of one parameter."""
    assert list(actual) == list(expected), what
    for key, value in expected.items():
        if key == "step":
            assert isinstance(actual[key], Tensor) == isinstance(value, Tensor), what
            if isinstance(value, Tensor):
                if value.dim() == 0 and value.is_floating_point():  # any other may be made one
                    assert (actual[key].dtype, actual[key].dim()) == (value.dtype, 0), what
                assert actual[key].device == value.device, what
            assert float(actual[key]) == float(value), f"{what}: step"
        elif isinstance(value, Tensor):
            assert_close(actual[key], value, f"{what}, {key}", **tolerance)
        else:
            assert actual[key] == value, f"{what}, {key}"


def assert_same_groups(actual: torch.optim.Optimizer, expected: torch.optim.Optimizer) -> None:
    """Compare the options of all groups, but which implementation is chosen."""
    assert len(actual.param_groups) == len(expected.param_groups)
    for ours, theirs in zip(actual.param_groups, expected.param_groups, strict=True):
        assert ours.keys() == theirs.keys()
        for key in theirs.keys() - {"params", "foreach", "fused"}:
            assert ours[key] == theirs[key], key
        assert len(ours["params"]) == len(theirs["params"])


def bits(tensor: Tensor) -> Tensor:
    """Return the numbers' bit patterns, flat and in logical order; every NaN counts as the same one."""
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    flat = tensor.reshape(-1).clone(memory_format=torch.contiguous_format)
    if flat.is_floating_point():
        flat[flat.isnan()] = torch.nan
    return flat.view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])


def assert_same_bits(actual: Tensor, expected: Tensor, what: str = "") -> None:
    """Fail unless both have the same shape, dtype and bits."""
    assert actual.shape == expected.shape, what
    assert actual.dtype == expected.dtype, what
    differ = (bits(actual) != bits(expected)).nonzero()[:, 0]
    assert differ.numel() == 0, (
        f"{what}: {differ.numel()} of {actual.numel()} differ, first at {differ[:3].tolist()}"
    )


def snapshot(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return copies of all that a step may write to: parameters, gradients, and what is remembered of them."""
    found: dict[str, Any] = {}
    for i, param in enumerate(members(optimizer)):
        found[f"param {i}"] = param.detach().clone()
        if param.grad is not None and not param.grad.is_sparse:
            found[f"grad {i}"] = param.grad.clone()
        found[f"has state {i}"] = param in optimizer.state
        for key, value in optimizer.state.get(param, {}).items():
            found[f"{key} {i}"] = value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
    return found


def assert_same_snapshot(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    """Fail unless two snapshots agree in every bit."""
    assert actual.keys() == expected.keys()
    for what, value in expected.items():
        if isinstance(value, Tensor):
            assert_same_bits(actual[what], value, what)
        else:
            assert actual[what] == value, what


def error_of(action: Callable[[], Any]) -> Exception | None:
    """Return the error that `action` raises, if any."""
    try:
        action()
    except Exception as error:
        return error
    return None


@contextlib.contextmanager
def surroundings(threads: int | None = None) -> Iterator[None]:
    """Undo afterwards what is set within: the number of torch's threads, at first that given, and the seed."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        with torch.random.fork_rng():
            yield
    finally:
        torch.set_num_threads(before)


def canaries(sizes: list[int]) -> Iterator[Tensor]:
    """Return fresh tensors of given sizes in bytes, where memory that was just freed is used first."""
    for size in sizes:
        for _ in range(4):
            yield torch.full((size,), 7, dtype=torch.uint8)
