r"""Learning rates that change from step to step, as functions of the 1-based step, for the option ``lr``.

Each is a small value: it prints as the code that makes it, compares, hashes, pickles, cannot be changed, and is
saved into checkpoints by its definition. Times are counted in steps of the optimizer, and learning rates are
absolute numbers. After its last step a schedule keeps its last value.

The values are optax's, which counts from 0 where an optimizer's first step is 1 here: ``ours(step)`` is
``theirs(step - 1)``. So what begins or changes "after 100 steps" does so at step 101. PyTorch's schedulers, with
one ``scheduler.step()`` after each step and `lr` the optimizer's, become these:

| `torch.optim.lr_scheduler`                 | here                                                        |
|--------------------------------------------|-------------------------------------------------------------|
| `ConstantLR(factor, total_iters)`          | `Join((lr * factor, lr), (total_iters,))`                   |
| `LinearLR(start_factor, 1, total_iters)`   | `Linear(lr * start_factor, lr, total_iters)`                |
| `PolynomialLR(total_iters, power)`         | `Polynomial(lr, 0.0, total_iters, power)`                   |
| `ExponentialLR(gamma)`                     | `Exponential(lr, gamma)`                                    |
| `StepLR(step_size, gamma)`                 | `Exponential(lr, gamma, every=step_size, staircase=True)`   |
| `MultiStepLR(milestones, gamma)`           | `Step(lr, {milestone: gamma for milestone in milestones})`  |
| `CosineAnnealingLR(T_max, eta_min)`        | `Cosine(lr, T_max, end=eta_min)`; torch's rises again later |
| `CosineAnnealingWarmRestarts(T_0, T_mult)` | `CosineRestarts(lr, T_0, growth=T_mult)`                    |
| `OneCycleLR(max_lr, total_steps)`          | `OneCycle(max_lr, total_steps)`; torch's is a step earlier  |
| `SequentialLR(schedulers, milestones)`     | `Join(schedules, milestones)`                               |
| `LambdaLR(function)`                       | `lambda step: lr * function(step - 1)`                      |
| `ReduceLROnPlateau`, `CyclicLR`            | none: assign `optimizer.lr`                                 |

Examples
--------
>>> import numpy as np, fastadam
>>> from fastadam.schedules import Cosine, Warmup
>>> schedule = Warmup(Cosine(0.1, steps=200), steps=10)
>>> [round(schedule(step), 4) for step in (1, 6, 11, 111, 211, 1000)]
[0.0, 0.05, 0.1, 0.05, 0.0, 0.0]
>>> schedule
Warmup(schedule=Cosine(start=0.1, steps=200, end=0.0, exponent=1.0), steps=10, start=0.0)
>>> optimizer = fastadam.Adam(np.ones(3), lr=schedule)
"""

from fastadam.schedules.cycles import CosineRestarts, OneCycle
from fastadam.schedules.decays import Constant, Cosine, Exponential, Linear, Polynomial, Step
from fastadam.schedules.joined import Join, Warmup
from fastadam.schedules.schedule import Schedule, from_dict

__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "Join",
    "Linear",
    "OneCycle",
    "Polynomial",
    "Schedule",
    "Step",
    "Warmup",
    "from_dict",
]
