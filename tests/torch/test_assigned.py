"""What is assigned to an optimizer for PyTorch: options count in all groups, and all else is as in torch."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import StepLR

import fastadam.torch
from fastadam.torch import originals

# Of each option: a value that differs from the default.
GOOD: dict[str, Any] = {
    "lr": 0.5,
    "betas": (0.5, 0.25),
    "eps": 0.125,
    "weight_decay": 0.75,
    "amsgrad": True,
    "maximize": True,
    "decoupled_weight_decay": True,
    "foreach": True,
    "capturable": True,
    "differentiable": True,
    "fused": True,
}
BAD: dict[str, list[Any]] = {
    "lr": [-1.0, math.nan, "0.1", None, torch.ones(2)],
    "betas": [(0.9, 1.0), (0.9,), 0.9, None, (0.9, torch.tensor(0.9))],
    "eps": [-1e-8, math.nan, None],
    "weight_decay": [-1, "0", None],
}


def make(kind: Any = fastadam.torch.Adam, **options: Any) -> Any:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    return kind([{"params": params[:1], "lr": 0.25}, {"params": params[1:]}], **options)


def step(optimizer: Any, seed: int) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for param in params:
        param.grad = torch.randn(3)
    optimizer.step()
    return [param.detach().clone() for param in params]


def test_every_option_of_torchs_is_tried() -> None:
    assert set(GOOD) == set(originals.Adam([torch.ones(1)]).defaults)


@pytest.mark.parametrize("name", [name for name in GOOD if name not in ("capturable", "differentiable")])
def test_an_option_that_is_assigned_is_that_of_all_groups(name: str) -> None:
    assigned, edited = make(), make()
    for optimizer in (assigned, edited):
        step(optimizer, 1)
    setattr(assigned, name, GOOD[name])
    for group in edited.param_groups:
        group[name] = GOOD[name]
    assert getattr(assigned, name) == GOOD[name]
    for seed in (2, 3):
        for mine, yours in zip(step(assigned, seed), step(edited, seed), strict=True):
            assert torch.equal(mine, yours)
    assigned.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    assert [group[name] for group in assigned.param_groups] == [GOOD[name]] * 3
    assert name not in vars(assigned)


@pytest.mark.parametrize("name", ["capturable", "differentiable"])
def test_steps_are_torchs_own_where_that_is_assigned(name: str) -> None:
    optimizer = make()
    setattr(optimizer, name, True)
    assert [group[name] for group in optimizer.param_groups] == [True, True]
    setattr(optimizer, name, False)
    step(optimizer, 1)
    assert optimizer.last_step == "fastadam"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]])
@pytest.mark.parametrize("kind", [fastadam.torch.Adam, fastadam.torch.AdamW])
def test_what_the_constructor_refuses_cannot_be_assigned(kind: Any, name: str, value: Any) -> None:
    optimizer = make(kind)
    before = [{**group} for group in optimizer.param_groups]
    with pytest.raises(Exception) as assigning:  # noqa: PT011 - whatever torch's constructor raises
        setattr(optimizer, name, value)
    with pytest.raises(assigning.type) as making:
        kind([torch.ones(2)], **{name: value})
    assert str(assigning.value) == str(making.value)
    assert [{**group} for group in optimizer.param_groups] == before
    step(optimizer, 1)


def test_options_that_torch_refuses_together_cannot_be_assigned_together() -> None:
    optimizer = make()
    optimizer.fused = True
    with pytest.raises(RuntimeError, match="fused"):
        optimizer.foreach = True
    assert optimizer.foreach is None
    optimizer.fused = None
    optimizer.foreach = True
    assert optimizer.foreach is True


def test_what_differs_between_groups_has_no_one_value() -> None:
    optimizer = make()
    assert not hasattr(optimizer, "lr")
    with pytest.raises(AttributeError, match=r"lr differs between groups: param_groups\[0\]\['lr'\] is 0.25"):
        _ = optimizer.lr
    assert getattr(optimizer, "lr", None) is None
    optimizer.lr = torch.tensor(0.5)
    assert optimizer.lr is optimizer.param_groups[1]["lr"]
    optimizer.param_groups[1]["lr"] = torch.tensor(0.5)
    assert optimizer.lr == 0.5


def test_a_scheduler_goes_on_from_what_was_assigned() -> None:
    optimizer = make()
    scheduler = StepLR(optimizer, step_size=1, gamma=0.5)
    step(optimizer, 1)
    optimizer.lr = 1.0
    scheduler.step()
    assert optimizer.lr == 0.5
    step(optimizer, 2)


def test_any_other_attribute_can_be_assigned_as_in_torch() -> None:
    optimizer = make()
    optimizer.learning_rate, optimizer._step_count, optimizer.state["note"] = 3, 1, {}
    assert (optimizer.learning_rate, optimizer._step_count) == (3, 1)
    del optimizer.state["note"], optimizer.learning_rate
    wrapped, calls = optimizer.step, []
    optimizer.step = lambda: calls.append(wrapped())
    step(optimizer, 1)
    assert len(calls) == 1


class Keeping(fastadam.torch.AdamW):
    """Keeps what it was made with, as classes over torch's optimizers do."""

    def __init__(self, params: Any, lr: float, schedule: str) -> None:
        self.eps = schedule  # type: ignore[assignment]
        super().__init__(params, lr=lr)
        self.lr, self.betas = lr, None  # type: ignore[assignment]


class Named(fastadam.torch.AdamW):
    """Has an attribute in its class."""

    amsgrad = "mine"  # type: ignore[assignment]


def test_subclasses_keep_what_they_assign_for_themselves() -> None:
    """Groups have the learning rates that they were given."""
    keeping = make(lambda params: Keeping(params, 0.5, "cosine"))
    assert (keeping.lr, keeping.betas, keeping.eps) == (0.5, None, "cosine")
    assert [group["lr"] for group in keeping.param_groups] == [0.25, 0.5]
    assert [group["betas"] for group in keeping.param_groups] == [(0.9, 0.999)] * 2
    keeping.lr = 3
    assert [group["lr"] for group in keeping.param_groups] == [0.25, 0.5]
    keeping.weight_decay = 0.5
    assert [group["weight_decay"] for group in keeping.param_groups] == [0.5] * 2
    named = make(Named)
    named.amsgrad = True
    assert [group["amsgrad"] for group in named.param_groups] == [False] * 2
    named.lr = 0.125
    assert [group["lr"] for group in named.param_groups] == [0.125] * 2


def test_copies_have_what_was_assigned() -> None:
    optimizer = make()
    optimizer.lr = 0.125
    twin = copy.deepcopy(optimizer)
    twin.lr = 0.5
    assert (optimizer.lr, twin.lr) == (0.125, 0.5)
