"""Adam's state from and to Keras 3."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastadam.adam import Adam
from fastadam.convert.exchange import (
    Source,
    check_optimizer,
    common_options,
    common_step,
    describe,
    moment_of,
    pair,
    saved_for,
    take_over,
)
from fastadam.groups.matching import Described
from fastadam.groups.members import Member
from fastadam.memory.arrays import Array
from fastadam.memory.structs import MOMENTS

MOST_STEPS = 2**31 - 1  # Keras counts in int32 on some of its backends
# Keras' names of the moments, in the order of ours.
ENDINGS = ("_momentum", "_velocity", "_velocity_hat")
# What Keras' Adam can do besides Adam, and the values with which it does not.
ABSENT = {
    "clipnorm": (None,),
    "clipvalue": (None,),
    "global_clipnorm": (None,),
    "use_ema": (False,),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
}


def from_keras(source: Any, opt: Adam) -> None:
    r"""Take over the state of Keras' Adam or AdamW, so that training goes on here.

    Parameters
    ----------
    source : keras.optimizers.Adam, keras.optimizers.AdamW, sequence or mapping
        The optimizer, built; or its ``variables``, as they are or as arrays in this order; or what
        ``save_own_variables`` has put into a mapping, with the keys ``"0"``, ``"1"`` and so on (in the file of
        a model, the HDF5 group ``optimizer/vars``).
    opt : Adam
        The optimizer to write to. If its parameters have names and the source does, these are matched with the
        paths of Keras' variables (``variable.path``). Otherwise the parameters are in Keras' order, that of
        ``model.trainable_variables``. Their values are not touched.

    Raises
    ------
    TypeError, ValueError
        If it is not the state of Adam or AdamW; if it does not fit: something is missing, unexpected or of
        another shape or dtype, or the counter is no whole number; or if Keras' optimizer does something that
        `opt` cannot: clipping, moving averages, loss scaling, accumulation of gradients, variables without
        decay. The optimizer is as before then.

    Notes
    -----
    - From an optimizer, all options are taken over: ``learning_rate``, ``beta_1`` and ``beta_2``, ``epsilon``,
      ``weight_decay`` (which is decoupled in Keras' Adam too) and ``amsgrad``. Variables hold the learning rate
      alone; with them `opt` keeps its other options, `amsgrad` included, which you have set to those of Keras.
    - Where Keras' learning rate is a schedule, `lr` of `opt` must be a function. Keras counts from 0, so that
      ``lr=lambda step: float(schedule(step - 1))`` is the same schedule.
    - epsilon is added in another place. Keras takes the step

      .. math:: \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \cdot \frac{m_t}{\sqrt{v_t} + \hat\epsilon}

      with the "epsilon hat" of the paper's section 2, this library and torch the step of Algorithm 1, in which
      :math:`\epsilon = \hat\epsilon / \sqrt{1 - \beta_2^t}`. That moves with the step, so that no constant makes
      both the same. `eps` is set to Keras' epsilon, which it tends to: it is too small by a factor of 32 at the
      first step, 1.26 at step 1,000 and 1.00002 at step 10,000, with the usual :math:`\beta_2` of 0.999. This
      matters for elements whose gradients are of the size of epsilon, 1e-7. For the same steps from the first
      one on, set ``opt.param_groups[0]["eps"] = epsilon / (1 - beta_2**t) ** 0.5`` before step t. If you gave
      variables, `eps` is what `opt` has; Keras' default is 1e-7, that of this library 1e-8.
    - Keras rounds its options to float32, for float64 variables too; they are taken over unrounded.
    - Keras counts steps for all variables together: each parameter gets this counter.
    - bfloat16 and float16 moments go to float32 or float64 parameters, and float32 ones to float64.

    Examples
    --------
    >>> import numpy as np, fastadam
    >>> from fastadam import convert
    >>> ours = fastadam.Adam([np.ones(3, np.float32)], eps=1e-7)
    >>> momentum, velocity = np.full(3, 0.1, np.float32), np.full(3, 0.001, np.float32)
    >>> convert.from_keras([np.int32(1), np.float32(0.5), momentum, velocity], ours)
    >>> ours.state[0]["step"], ours.param_groups[0]["lr"]
    (np.int64(1), 0.5)
    """
    check_optimizer(opt)
    with opt._exclusive("from_keras") as contents:
        members, current = contents.members, contents.saved(copy=False, decode=True)
        options: dict[str, Any] = {}
        amsgrad = {group["amsgrad"] for group in current["param_groups"]}
        if hasattr(source, "save_own_variables"):
            options = _options(source, "from_keras")
            amsgrad = {options["amsgrad"]}
        if len(amsgrad) != 1:
            raise ValueError("from_keras: amsgrad is on in some groups of opt only; Keras has it for all or none")
        variables = _Variables(source, members, amsgrad.pop(), "from_keras")
        lr = variables.learning_rate
        if lr is not None:
            options["lr"] = float(_array(lr))
        elif not all(callable(group["lr"]) for group in current["param_groups"]):
            raise ValueError(
                "from_keras: the learning rate follows a schedule, which the variables do not hold; set lr of opt "
                "to a function of the 1-based step, lambda step: float(schedule(step - 1)), then convert"
            )
        count = _array(variables.iteration)
        sources = [
            Source(each.name, each.label, count, dict(zip(MOMENTS, map(_array, column), strict=False)))
            for each, column in zip(variables.described, zip(*variables.moments, strict=True), strict=True)
        ]
        take_over("from_keras", contents, [(options, sources)])


def to_keras(opt: Adam, optimizer: Any) -> dict[str, Array]:
    """Return an optimizer's state as the variables of Keras' Adam or AdamW.

    ``optimizer.load_own_variables(to_keras(opt, optimizer))`` lets training go on in Keras.

    Parameters
    ----------
    opt : Adam
        The optimizer; all its parameters have taken the same number of steps.
    optimizer : keras.optimizers.Adam or keras.optimizers.AdamW
        The optimizer that the variables are for. It has been built,
        ``optimizer.build(model.trainable_variables)``, and is not changed.

    Returns
    -------
    dict of str to ndarray
        Copies, under the keys that ``load_own_variables`` reads.

    Raises
    ------
    TypeError, ValueError
        If `optimizer` is not what `from_keras` takes; if the parameters do not fit in number, names, shapes or
        dtypes; if the options differ, since only the learning rate is a variable; or if step counters differ.

    Notes
    -----
    The options to have in common are ``beta_1`` and ``beta_2``, ``epsilon``, ``weight_decay`` with
    ``decoupled_weight_decay=True``, and ``amsgrad``; ``maximize`` must be off. `from_keras` says how epsilon
    differs. Where Keras' learning rate is a schedule, it stays, and goes on with the number of the step.

    Examples
    --------
    Where ``model`` is a Keras model::

        params = {v.path: np.array(v) for v in model.trainable_variables}
        ours = fastadam.AdamW(params, eps=1e-7, weight_decay=0.004)
        ...
        theirs = keras.optimizers.AdamW(1e-3)
        theirs.build(model.trainable_variables)
        theirs.load_own_variables(convert.to_keras(ours, theirs))
        for v in model.trainable_variables:
            v.assign(params[v.path])
    """
    check_optimizer(opt)
    if not hasattr(optimizer, "save_own_variables"):
        raise TypeError(f"to_keras: optimizer must be Keras' Adam or AdamW, got {type(optimizer).__name__}")
    theirs = _options(optimizer, "to_keras")
    with opt._exclusive("to_keras") as contents:
        members, current = contents.members, saved_for(contents, "to_keras")
        ours = common_options("to_keras", current)
        if not ours["weight_decay"]:  # then it does not matter of which kind it is
            theirs["decoupled_weight_decay"] = ours["decoupled_weight_decay"]
        for key, value in theirs.items():
            if ours[key] != value:
                raise ValueError(
                    f"to_keras: {key} is {ours[key]!r} in opt and {value!r} in optimizer; make them the same"
                )
        variables = _Variables(optimizer, members, theirs["amsgrad"], "to_keras")
        order = pair("to_keras", members, variables.described)
        count = common_step("to_keras", current, members, MOST_STEPS)
        values: dict[int, Any] = {id(variables.iteration): count}
        if variables.learning_rate is not None:
            if callable(ours["lr"]):
                raise ValueError(
                    "to_keras: lr of opt is a function, that of optimizer a number; make it with a schedule of "
                    "Keras, or set lr to a number"
                )
            values[id(variables.learning_rate)] = ours["lr"]
        for moment, column in zip(MOMENTS, variables.moments, strict=False):
            for position, variable in zip(order, column, strict=True):
                values[id(variable)] = moment_of(current, position, moment, members[position])
    return {
        str(i): np.asarray(values[id(variable)], _array(variable).dtype)
        for i, variable in enumerate(variables.all)
    }


class _Variables:
    """The variables of Keras' Adam, sorted.

    Parameters
    ----------
    source : object
        What `from_keras` takes.
    members : sequence of Member
        The parameters that they are for.
    amsgrad : bool
        Whether there are maxima of the second moments.
    what : str
        The conversion's name, for messages.

    Attributes
    ----------
    all : list
        In Keras' order.
    iteration, learning_rate : object
        The second is None where it follows a schedule.
    moments : list of list
        Keras' parameters in each of their moments.
    described : list of Described
        Those parameters.

    Raises
    ------
    TypeError, ValueError
        If the variables are not those of Adam for so many parameters.
    """

    def __init__(self, source: Any, members: Sequence[Member], amsgrad: bool, what: str) -> None:
        self.all = _in_order(source, what)
        n, kinds = len(members), len(MOMENTS) if amsgrad else len(MOMENTS) - 1
        named = all(isinstance(getattr(variable, "name", None), str) for variable in self.all)
        if named:  # then the number of Keras' parameters can be told from ours
            n = sum(variable.name.endswith(ENDINGS[0]) for variable in self.all)
        scalars = len(self.all) - n * kinds
        if scalars not in (1, 2):
            raise ValueError(
                f"{what}: there are {len(self.all)} variables, but {kinds} for each of {n} parameters (amsgrad is "
                f"{amsgrad}), the number of the step and at most a learning rate make {n * kinds + 2}; they "
                f"must be those of Adam or AdamW over the same parameters"
            )
        self.iteration, rest = self.all[0], self.all[scalars:]
        self.learning_rate = self.all[1] if scalars == 2 else None
        for variable in self.all[:scalars]:
            if tuple(variable.shape):
                raise ValueError(
                    f"{what}: the number of the step and the learning rate come first and are no arrays, got one "
                    f"of shape {tuple(variable.shape)}; give the variables in Keras' order"
                )
        self.moments = [rest[0 : 2 * n : 2], rest[1 : 2 * n : 2], rest[2 * n :]][:kinds]
        names = self._names(members, what) if named else [None] * n
        self.described = [
            Described(name, f"parameter {i if name is None else name!r}", [describe(each) for each in column])
            for i, (name, column) in enumerate(zip(names, zip(*self.moments, strict=True), strict=True))
        ]

    def _names(self, members: Sequence[Member], what: str) -> list[str | None]:
        """Return the names of Keras' parameters: ours, where Keras has written one with ``_`` for ``/``."""
        stems = [variable.name.removesuffix(ENDINGS[0]) for variable in self.moments[0]]
        for ending, column in zip(ENDINGS, self.moments, strict=False):
            for stem, variable in zip(stems, column, strict=True):
                if variable.name != stem + ending:
                    raise ValueError(
                        f"{what}: {stem + ending!r} was expected where {variable.name!r} is; these are not the "
                        f"variables of Keras' Adam, or not in their order"
                    )
        ours = {str(member.name).replace("/", "_"): member.name for member in members}
        if members[0].name is not None and len(ours) < len(members):
            raise ValueError(
                f"{what}: two names of opt differ only in '/' and '_', which Keras' variables do not tell apart; "
                f"give their values as arrays, [np.asarray(v) for v in optimizer.variables], to match in order"
            )
        return [ours.get(stem, stem) for stem in stems]


def _in_order(source: Any, what: str) -> list[Any]:
    """Return the variables, whatever holds them."""
    if hasattr(source, "save_own_variables"):
        return list(source.variables)
    if hasattr(source, "keys"):
        wanted = [str(i) for i in range(len(source))]
        if set(wanted) != set(source.keys()):
            raise ValueError(
                f"{what}: the keys must be '0' to '{len(source) - 1}', as save_own_variables writes them, got "
                f"{sorted(map(str, source.keys()))[:10]}"
            )
        found = [source[key] for key in wanted]
    elif isinstance(source, list | tuple):
        found = list(source)
    else:
        raise TypeError(
            f"{what}: source must be Keras' Adam or AdamW, its variables, or the mapping of save_own_variables, "
            f"got {type(source).__name__}"
        )
    for each in found:
        if not hasattr(each, "shape") or not hasattr(each, "dtype"):
            raise TypeError(f"{what}: there must be variables or arrays, got {each!r:.100}")
    return found


def _options(optimizer: Any, what: str) -> dict[str, Any]:
    """Return the options of Keras' Adam, but for the learning rate, under our names."""
    kinds = [each.__name__ for each in type(optimizer).__mro__ if each.__module__.startswith("keras.")]
    if "Adam" not in kinds:
        inner = "; pass its inner_optimizer" if hasattr(optimizer, "inner_optimizer") else ""
        raise TypeError(f"{what}: it must be Keras' Adam or AdamW, got {type(optimizer).__name__}{inner}")
    for key, values in ABSENT.items():
        if getattr(optimizer, key) not in values:
            raise ValueError(
                f"{what}: {key} of Keras' optimizer is {getattr(optimizer, key)!r}, and fastadam.Adam does not do "
                f"that; do it yourself, with an optimizer that has {key}={values[0]}"
            )
    if getattr(optimizer, "_exclude_from_weight_decay", None) or getattr(
        optimizer, "_exclude_from_weight_decay_pattern", None
    ):
        raise ValueError(
            f"{what}: exclude_from_weight_decay was called on Keras' optimizer; pass its variables to from_keras, "
            f"and give opt a group with weight_decay=0 for those that it excludes"
        )
    if not optimizer.built:
        raise ValueError(f"{what}: Keras' optimizer is not built; call optimizer.build(model.trainable_variables)")
    return {
        "betas": (float(optimizer.beta_1), float(optimizer.beta_2)),
        "eps": float(optimizer.epsilon),
        "weight_decay": float(optimizer.weight_decay or 0.0),
        "decoupled_weight_decay": True,
        "amsgrad": bool(optimizer.amsgrad),
        "maximize": False,
    }


def _array(variable: Any) -> Array:
    with warnings.catch_warnings():  # that Keras on torch calls NumPy 2 as it should not
        warnings.simplefilter("ignore", DeprecationWarning)
        return np.asarray(variable)
