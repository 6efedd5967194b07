"""What an optimizer is made of, as types: parameters, groups and options (see `fastadam.memory.forms`)."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from typing import TypeAlias, TypedDict

from fastadam.memory.forms import Iterated, Leaf, Listed, Tree
from fastadam.memory.packed import Packed
from fastadam.memory.state_file import FilePath as FilePath  # for those above, who do not reach down so far
from fastadam.step.backend import BackendName
from fastadam.step.hyperparameters import LearningRate, Real, Rounding, StateDtype
from fastadam.step.laziness import Lazy

Alone: TypeAlias = Leaf | Packed | Mapping[str, Tree] | ItemsView[str, Leaf]
Item: TypeAlias = Tree | tuple[str, Leaf]
GroupParams: TypeAlias = Alone | Listed[Item] | Iterator[Item] | Iterated[Item]


class GroupOptions(TypedDict, total=False):
    """The options of a group, each of which can be left out, or given by the names of parameters."""

    lr: LearningRate | Mapping[str, LearningRate]
    betas: tuple[Real, Real] | Mapping[str, tuple[Real, Real]]
    eps: Real | Mapping[str, Real]
    weight_decay: Real | Mapping[str, Real]
    amsgrad: bool | Mapping[str, bool]
    maximize: bool | Mapping[str, bool]
    decoupled_weight_decay: bool | Mapping[str, bool]
    state_dtype: StateDtype | Mapping[str, StateDtype]
    master_weights: bool | Mapping[str, bool]
    rounding: Rounding | Mapping[str, Rounding]
    seed: int | Mapping[str, int]


class ParamGroup(GroupOptions):
    """A group as it is given to an optimizer, with options of its own."""

    params: GroupParams


class Options(TypedDict, total=False):
    """The options of an optimizer, as keyword arguments."""

    lr: LearningRate
    betas: tuple[Real, Real]
    eps: Real
    weight_decay: Real
    amsgrad: bool
    maximize: bool
    decoupled_weight_decay: bool
    state_dtype: StateDtype
    master_weights: bool
    rounding: Rounding
    seed: int
    max_grad_norm: Real | None
    skip_nonfinite: bool
    error_if_nonfinite: bool
    ema_decay: Real | None
    ema_warmup: bool
    lazy: Lazy
    backend: BackendName
    threads: int | None
    state_path: FilePath | None


# Not two kinds of lists, one of groups: mypy would not know any more what the items of one are to be.
ItemOrGroup: TypeAlias = Item | ParamGroup
Params: TypeAlias = Alone | Listed[ItemOrGroup] | Iterator[ItemOrGroup] | Iterated[ItemOrGroup]
