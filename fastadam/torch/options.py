"""The options in an optimizer's `param_groups`: read, compared and checked."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastadam.groups.edits import Edits
from fastadam.step import hyperparameters
from fastadam.step.hyperparameters import DEFAULTS, PRECISION, Hyperparameters
from fastadam.torch.compact import layout_of
from fastadam.torch.tensors import DTYPES

# Steps that only torch's own code can take: those through which autograd goes, and those in CUDA graphs.
_TORCHS_OWN = ("differentiable", "capturable")
# The options of a group that a step looks at, as a tuple to compare: torch's own, and those that are not there
# unless they are given.
_KEYS = tuple(name for name in hyperparameters.KEYS if name not in PRECISION)
_read_torchs = operator.itemgetter(*_KEYS, *_TORCHS_OWN)


def read(group: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the options of a group."""
    found: tuple[Any, ...] = _read_torchs(group)
    return (*found, *(group.get(name, default) for name, default in PRECISION.items()))


class NotOurs(Exception):  # noqa: N818 - no error: the step goes another way
    """Our kernels do not serve options that torch's step takes; the message says which."""


def check(found: Sequence[Any], where: str) -> Hyperparameters:
    """Check the options of a group; arrays and tensors of one element count as the numbers in them.

    Parameters
    ----------
    found : sequence
        What `read` returned for the group.
    where : str
        Prefix of error messages.

    Raises
    ------
    TypeError, ValueError
        If neither our step nor torch's can be taken with one of them.
    NotOurs
        If torch's can, and ours cannot.
    """
    group = dict(zip((*_KEYS, *_TORCHS_OWN, *PRECISION), found, strict=True))
    precision = checked_precision({name: group[name] for name in PRECISION}, where)
    for name in _TORCHS_OWN:
        if group[name]:
            raise NotOurs(f"{where}{name}=True")
    options = {**precision, **{name: _number(group[name]) for name in _KEYS}}
    for name in ("amsgrad", "maximize", "decoupled_weight_decay"):
        options[name] = bool(options[name])
    if isinstance(options["betas"], Sequence) and not isinstance(options["betas"], str):
        options["betas"] = tuple(map(_number, options["betas"]))
    if callable(options["lr"]):
        raise TypeError(f"{where}lr must be a number, got {options['lr']!r}; use a scheduler of torch.optim")
    try:
        return hyperparameters.check(options, where)
    except ValueError as error:  # a number that is out of our range
        if _torch_fails(*options["betas"]):
            raise
        raise NotOurs(str(error)) from None


class Checked(NamedTuple):
    """Options that were checked, none of which can change and stay the same object.

    Attributes
    ----------
    found : list of tuple
        What `read` returned for each group.
    dtypes : list of list of dtype
        Those of each group's parameters.
    hypers : list of Hyperparameters
        What came of it.
    """

    found: list[tuple[Any, ...]]
    dtypes: list[list[Any]]
    hypers: list[Hyperparameters]

    def are(self, found: Sequence[tuple[Any, ...]], dtypes: list[list[Any]]) -> bool:
        """Whether these are the same objects, of parameters of the same dtypes."""
        return dtypes == self.dtypes and all(
            all(map(operator.is_, each, other)) for each, other in zip(found, self.found, strict=True)
        )


class OptionEdits(Edits):
    """Notices edits of the options of torch's groups.

    Attributes
    ----------
    checked : Checked or None
        The last ones that were checked.
    """

    __slots__ = ("checked",)

    def __init__(self) -> None:
        super().__init__(read)
        self.checked: Checked | None = None


def check_groups(groups: Sequence[Mapping[str, Any]], edits: OptionEdits) -> list[Hyperparameters]:
    """Check the options of all groups, and note them; they are read once, as another thread may edit them.

    Raises
    ------
    TypeError, ValueError, NotOurs
        See `check`.
    """
    edits.forget()
    params = [group["params"] for group in groups]
    sizes = list(map(len, groups))  # looked at first: one that is added from now on will be noticed by them
    # Without options that torch does not have, they are read natively from then on.
    are_torchs = not any(name in group for group in groups for name in PRECISION)
    found = [read(group) for group in groups]
    dtypes, checked = [[param.dtype for param in members] for members in params], edits.checked
    known = checked is not None and checked.are(found, dtypes)
    hypers = list(checked.hypers) if checked is not None and known else check_all(found, params)
    if known or all(map(are_fixed, found)):
        edits.checked = Checked(found, dtypes, hypers)
        if are_torchs:
            edits.note([each[: -len(PRECISION)] for each in found], params, _read_torchs, sizes)
        else:
            edits.note(found, params, read, sizes)
    return hypers


def checked_precision(options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return `PRECISION` with these options, checked.

    Raises
    ------
    TypeError, ValueError
        If one is not what it must be.
    """
    hyper = hyperparameters.check({**DEFAULTS._asdict(), **options}, where)
    return {name: getattr(hyper, name) for name in PRECISION}


def precision_asked_for(arguments: dict[str, Any]) -> dict[str, Any]:
    """Take `PRECISION` out of the arguments of a constructor; return nothing where all are the defaults.

    Raises
    ------
    TypeError, ValueError
        If one is not what it must be.
    """
    given = {name: arguments.pop(name) for name in PRECISION if name in arguments}
    found = checked_precision(given) if given else PRECISION
    return found if found != PRECISION else {}


def complete(group: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Give a new group all of `PRECISION`, if it has some, or the optimizer has.

    Raises
    ------
    TypeError, ValueError
        If one is not what it must be; nothing has changed then.
    """
    of_all = {name: defaults[name] for name in PRECISION if name in defaults}
    own = {name: group[name] for name in PRECISION if name in group}
    if own or of_all:
        group.update(checked_precision({**of_all, **own}))


def loaded(saved: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a group has of `PRECISION` when a saved one is loaded: its own, but for the seed.

    There are none where all are the defaults, and the group has none.
    """
    own = {name: group.get(name, default) for name, default in PRECISION.items()}
    found = checked_precision({**own, "seed": saved.get("seed", own["seed"])}, "state dict: ")
    has_some = any(name in group for name in PRECISION)
    return found if has_some or found != PRECISION else {}


def compact_in(groups: Iterable[Mapping[str, Any]]) -> str | None:
    """Return what makes parameters or states compact, such as ``"state_dtype='int8'"``; None where nothing does.

    Raises
    ------
    TypeError, ValueError
        If an option is not what it must be.
    """
    for i, group in enumerate(groups):
        given = {name: group[name] for name in PRECISION if name in group}
        if not given:
            continue
        hyper = DEFAULTS._replace(**checked_precision(given, f"param_groups[{i}]: "))
        for param in group["params"]:
            if param.dtype in DTYPES and not layout_of(hyper, param.dtype).is_plain:
                used = [name for name in given if name != "seed" and given[name] != PRECISION[name]]
                return ", ".join(f"{name}={given[name]!r}" for name in used)
    return None


def are_alike(hypers: Iterable[Hyperparameters], others: Iterable[Hyperparameters]) -> bool:
    """Whether parameters and states lie in the same formats by the options of groups."""
    return [(h.state_dtype, h.master_weights, h.rounding) for h in hypers] == [
        (h.state_dtype, h.master_weights, h.rounding) for h in others
    ]


def check_all(found: Sequence[Sequence[Any]], params: Sequence[Sequence[Tensor]]) -> list[Hyperparameters]:
    """Check the options of all groups (see `check`), whose parameters are `params`.

    An `eps` that becomes zero in the dtype that a parameter is computed with is one that only torch takes.
    """
    hypers = []
    for i, (each, members) in enumerate(zip(found, params, strict=True)):
        where = f"param_groups[{i}]: "
        hypers.append(check(each, where))
        try:
            hyperparameters.check_eps(hypers[-1].eps, _computed(members), where)
        except ValueError as error:
            raise NotOurs(str(error)) from None
    return hypers


def _computed(params: Iterable[Tensor]) -> Iterator[tuple[str, Any]]:
    """Yield what parameters are called, and what each is computed with; one of another dtype is refused later."""
    for i, param in enumerate(params):
        if param.dtype in DTYPES:
            yield f"params[{i}]", DTYPES[param.dtype].format.compute


def _torch_fails(beta1: float, beta2: float) -> bool:
    """Whether torch's step fails with these, too, when it has written some of the state.

    It divides by ``1 - beta1**step`` and takes the root of ``1 - beta2**step``.
    """
    return beta1 == 1 or beta2 > 1


def are_fixed(options: tuple[Any, ...]) -> bool:
    """Whether no option of those that `read` found can change and stay the same object, as a tensor can."""
    betas = options[hyperparameters.KEYS.index("betas")]
    values = (value for value in (*options, *betas) if value is not betas)
    fixed = bool | int | float | str | np.number | None
    return type(betas) is tuple and all(isinstance(value, fixed) for value in values)


def _number(value: Any) -> Any:
    """Return the number in a one-element tensor or an array without dimensions; anything else as it is."""
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else value
    elif getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    return int(value) if isinstance(value, bool) else value
