"""fastadam.torch under torch's learning-rate schedulers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")


from tests.support.torch_cases import (  # noqa: E402
    NAMES,
    Twins,
    two_groups,
)

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
