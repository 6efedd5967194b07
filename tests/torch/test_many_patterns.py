"""Steps of fastadam.torch in which ever other gradients are missing: native code leaves them out."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import fastadam.torch  # noqa: E402
from fastadam.groups.patterns import MOST_PATTERNS  # noqa: E402
from fastadam.torch import native_attempt  # noqa: E402
from tests.conftest import AVAILABLE  # noqa: E402
from tests.support.strategies import examples, seeds  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    Parameter,
    assert_same_bits,
    assert_same_snapshot,
    draw,
    grad_for,
    members,
    snapshot,
)

SHAPES: list[tuple[int, ...]] = [(5,), (2, 3), (), (9000,), (0,), (1,)]
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.bfloat16)
NATIVE = [name for name in AVAILABLE if name != "numpy"]
ENOUGH = 2 * MOST_PATTERNS + 3

pytestmark = pytest.mark.skipif(not native_attempt.tensor_reader(), reason="native code cannot read tensors here")


def parameters(n: int, dtypes: Any) -> list[Any]:
    return [Parameter(draw(SHAPES[i % len(SHAPES)], dtypes[i % len(dtypes)], i)) for i in range(n)]


def at_random(seed: int, n: int) -> list[list[bool]]:
    """Return which gradients there are in each of some steps: first all, then ever others, also none."""
    rng = random.Random(seed)
    found = [[rng.random() < 0.5 for _ in range(n)] for _ in range(ENOUGH)]
    return [[True] * n, *found, [False] * n, *found[:3], [True] * n]


def leaves_out(optimizer: Any) -> bool:
    attempts = optimizer._memo.attempts
    return attempts is not None and attempts.current is not None and attempts.current.active.leaves_out


def without_gradients(optimizer: Any) -> dict[str, Any]:
    return {name: each for name, each in snapshot(optimizer).items() if not name.startswith("grad ")}


class Pair:
    """An optimizer, and one over the same parameters that makes a plan for each pattern, in NumPy."""

    def __init__(self, backend: str, n: int = 7, dtypes: Any = DTYPES, **settings: Any) -> None:
        self.n = n
        self.optimizers = []
        for name in (backend, "numpy"):
            params = parameters(n, dtypes)
            groups = [{"params": params[: n // 2]}, {"params": params[n // 2 :], "weight_decay": 0.1}]
            self.optimizers.append(fastadam.torch.Adam(groups, **{"lr": 0.1, **settings}))
            self.optimizers[-1].backend = name

    def step(self, seed: int, present: list[bool], **how: Any) -> None:
        for optimizer in self.optimizers:
            for i, (param, there) in enumerate(zip(members(optimizer), present, strict=True)):
                param.grad = grad_for(param, 97 * seed + i) if there else None
            versions = [param._version for param in members(optimizer)]
            optimizer.step(**how)
            stepped = [param._version > before for param, before in zip(members(optimizer), versions, strict=True)]
            assert stepped == present
            if how.get("zero_grad"):
                assert not any(param.grad.any() for param in members(optimizer) if param.grad is not None)
        self.check()

    def check(self) -> None:
        ours, theirs = map(snapshot, self.optimizers)
        assert_same_snapshot(ours, theirs)
        assert self.optimizers[0].grad_norm == self.optimizers[1].grad_norm
        if self.optimizers[0].ema_decay is not None:
            for mine, other in zip(*(each.ema.values() for each in self.optimizers), strict=True):
                assert_same_bits(mine, other)

    def irregular(self) -> None:
        """Step until gradients are left out."""
        for seed, present in enumerate(at_random(0, self.n)):
            self.step(seed, present)
        assert leaves_out(self.optimizers[0])
        assert not leaves_out(self.optimizers[1])


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "amsgrad": {"amsgrad": True},
    "clipped": {"max_grad_norm": 0.5},
    "averages": {"ema_decay": 0.9, "ema_warmup": True},
    "all": {"amsgrad": True, "max_grad_norm": 0.5, "ema_decay": 0.9, "skip_nonfinite": True},
}


@pytest.mark.parametrize("backend", NATIVE)
@examples(10)
@given(seed=seeds, settings_=st.sampled_from(sorted(SETTINGS)), zero_grad=st.booleans(), n=st.integers(6, 9))
def test_bits_do_not_depend_on_how_gradients_are_left_out(
    backend: str, seed: int, settings_: str, zero_grad: bool, n: int
) -> None:
    pair = Pair(backend, n, **SETTINGS[settings_])
    for number, present in enumerate(at_random(seed, n)):
        pair.step(number, present, zero_grad=zero_grad)
    assert leaves_out(pair.optimizers[0])


@pytest.mark.parametrize("backend", NATIVE)
def test_agents_that_take_turns(backend: str) -> None:
    pair = Pair(backend, 3 * MOST_PATTERNS, (torch.float32,))
    for step in range(4 * MOST_PATTERNS):
        pair.step(step, [i // 2 == step % (pair.n // 2) for i in range(pair.n)])
    assert leaves_out(pair.optimizers[0])


@pytest.mark.parametrize("backend", NATIVE)
def test_few_patterns_have_plans_of_their_own(backend: str) -> None:
    pair = Pair(backend, 4)
    for step in range(ENOUGH):
        pair.step(step, [step % 4 != i for i in range(4)])
    assert not leaves_out(pair.optimizers[0])


@pytest.mark.parametrize("backend", NATIVE)
@pytest.mark.parametrize("change", ["option", "amsgrad", "load", "state", "group", "data", "counter", "copy"])
def test_what_comes_after(backend: str, change: str) -> None:
    pair = Pair(backend)
    pair.irregular()
    for i, optimizer in enumerate(pair.optimizers):
        first = members(optimizer)[0]
        if change == "option":
            optimizer.param_groups[1]["lr"] = 0.01
        elif change == "amsgrad":
            optimizer.param_groups[0]["amsgrad"] = True
        elif change == "load":
            optimizer.load_state_dict(optimizer.state_dict())
        elif change == "state":
            del optimizer.state[first]
        elif change == "group":
            optimizer.add_param_group({"params": parameters(2, (torch.float32,))})
        elif change == "data":
            first.data = first.data.clone()
        elif change == "counter":
            optimizer.state[first]["step"] = torch.tensor(500.0, dtype=torch.float64)
        else:
            pair.optimizers[i] = copy.deepcopy(optimizer)
    pair.n = len(members(pair.optimizers[0]))
    for seed, present in enumerate(at_random(7, pair.n)):
        pair.step(50 + seed, present)
    assert leaves_out(pair.optimizers[0])


@pytest.mark.parametrize("backend", NATIVE)
def test_gradients_that_need_care(backend: str) -> None:
    pair = Pair(backend, 6, (torch.float32,))
    pair.irregular()
    for present in ([True, False] * 3, [True] * 6, [False, True] * 3):
        for optimizer in pair.optimizers:
            for param, there in zip(members(optimizer), present, strict=True):
                param.grad = draw((*param.shape, 2), seed=1)[..., 0] if there else None
            optimizer.step()
        pair.check()
    pair.step(80, [False, True] * 3)


@pytest.mark.parametrize("backend", NATIVE)
def test_a_counter_that_cannot_be_counted_on_is_refused(backend: str) -> None:
    pair = Pair(backend)
    pair.irregular()
    ours = pair.optimizers[0]
    ours.state[members(ours)[0]]["step"].fill_(-1)
    for i, param in enumerate(members(ours)):
        param.grad = grad_for(param, i) if i % 2 == 0 else None
    before = snapshot(ours)
    with pytest.raises(RuntimeError, match="the state 'step' of parameter 0"):
        ours.step()
    assert_same_snapshot(snapshot(ours), before)


@pytest.mark.parametrize("backend", NATIVE)
def test_parameters_in_the_same_memory_are_stepped_one_after_the_other(backend: str) -> None:
    """What overlaps cannot be in one plan, whichever gradients there are."""
    sides = []
    for name in (backend, "numpy"):
        params = parameters(6, (torch.float32,))
        params.append(Parameter(params[0].data[:3]))
        optimizer = fastadam.torch.Adam(params, lr=0.1)
        optimizer.backend = name  # type: ignore[assignment]
        for seed, present in enumerate(at_random(3, len(params))):
            for i, (param, there) in enumerate(zip(params, present, strict=True)):
                param.grad = grad_for(param, 97 * seed + i) if there else None
            optimizer.step()
        assert not leaves_out(optimizer)
        sides.append(snapshot(optimizer))
    assert_same_snapshot(*sides)


@pytest.mark.parametrize("backend", NATIVE)
def test_skipped_steps(backend: str) -> None:
    pair = Pair(backend, 6, (torch.float32,), skip_nonfinite=True)
    pair.irregular()
    before = list(map(without_gradients, pair.optimizers))
    for optimizer in pair.optimizers:
        for i, param in enumerate(members(optimizer)):
            param.grad = torch.full_like(param, torch.inf if i == 1 else 1.0) if i in (0, 1) else None
        optimizer.step(zero_grad=True)
        assert not members(optimizer)[1].grad.any()
        assert optimizer.skipped_steps == 1
    for optimizer, known in zip(pair.optimizers, before, strict=True):
        assert_same_snapshot(without_gradients(optimizer), known)
    pair.step(81, [True, False] * 3)
