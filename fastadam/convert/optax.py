"""Adam's state from and to optax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastadam.adam import Adam
from fastadam.convert.exchange import (
    Source,
    check_optimizer,
    common_options,
    common_step,
    copy_numpy,
    describe,
    moment_of,
    pair,
    saved_for,
    take_over,
)
from fastadam.convert.optax_states import Found, rebuild
from fastadam.groups.matching import Described
from fastadam.memory.arrays import Array
from fastadam.memory.structs import MOMENTS
from fastadam.step.bias_correction import bias_correction, log_of

MOST_STEPS = 2**31 - 1  # optax counts in int32
# What inject_hyperparams shows, under optax's names and ours.
SHOWN = {"learning_rate": "lr", "eps": "eps", "weight_decay": "weight_decay"}
BETAS = ("b1", "b2")


def from_optax(source: Any, opt: Adam) -> None:
    """Take over the state of optax's ``adam``, ``adamw`` or ``amsgrad``, so that training goes on here.

    Parameters
    ----------
    source : optax state
        What ``init`` or ``update`` returned: a ``ScaleByAdamState`` or ``ScaleByAmsgradState``, alone or in the
        chains that ``optax.adam``, ``adamw``, ``amsgrad``, ``chain``, ``named_chain``, ``masked`` and
        ``inject_hyperparams`` make.
    opt : Adam
        The optimizer to write to. If its parameters have names, these are matched with the paths in the tree of
        parameters, joined by ``"/"`` (``"layer/w"`` for ``{"layer": {"w": ...}}``), or by dots where `opt` was
        given the tree itself. Otherwise the parameters are in the order of JAX's leaves, in which dicts are sorted
        by key. Their values are not touched.

    Raises
    ------
    TypeError, ValueError
        If it holds no such state, or something besides that would be lost; or if it does not fit: something is
        missing, unexpected or of another shape or dtype, or a counter is no whole number. The optimizer is as
        before then.
    RuntimeError
        If JAX has deleted an array of it.
    ImportError
        If JAX is missing.

    Notes
    -----
    - An optax state holds no options: `opt` keeps its own, which you have set to those of optax
      (``b1, b2`` are `betas`; ``adamw`` is `AdamW`, and parameters that its mask leaves out belong in a group
      without decay). Only ``inject_hyperparams`` shows them; those are taken over, as the float32 numbers
      that optax computes with, and anything that has no counterpart is refused (``eps_root`` other than 0).
    - A schedule is not in the state either: `lr` of `opt` must be a function then. optax counts from 0, so
      that ``lr=lambda step: schedule(step - 1)`` is the same schedule.
    - The state does not tell Adam from its relatives with the same state (``nadam``, ``adamax``, ``lamb``):
      that it is Adam's is up to you. Clipping and the like leave no trace either.
    - optax's ``amsgrad`` takes the maximum of second moments after bias correction, torch and this library
      before it. The maximum is multiplied by the bias correction, so that the denominators agree at the
      moment of conversion. Later steps differ by at most the factor by which the correction still grows;
      after ``10 / (1 - beta2)`` steps, that is less than 5e-5. This supposes ``bias_correction_nu=True``,
      the default.
    - ``mu_dtype=bfloat16`` moments are widened, and go on in the parameter's dtype.
    - Complex parameters are refused: optax squares their modulus, torch and this library each part.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, optax, fastadam
    >>> from fastadam import convert
    >>> params = {"w": jnp.ones(3)}
    >>> theirs = optax.adam(0.5)
    >>> updates, state = theirs.update({"w": jnp.ones(3)}, theirs.init(params), params)
    >>> params = optax.apply_updates(params, updates)
    >>> ours = fastadam.Adam({"w": np.array(params["w"])}, lr=0.5)
    >>> convert.from_optax(state, ours)
    >>> ours.state["w"]["step"]
    np.int64(1)
    """
    check_optimizer(opt)
    found = Found(source, "from_optax")
    count = _check_counts(found)

    def copy(target: Array, moment: Any, name: str, options: Mapping[str, Any]) -> None:
        copy_numpy(target, moment, name, options)
        if name == MOMENTS[2] and count:
            target *= bias_correction(*log_of(options["betas"][1]), count)

    with opt._exclusive("from_optax") as contents:
        current = contents.saved(copy=False, decode=True)
        _check_amsgrad(found, current, "from_optax", "make opt with amsgrad={}")
        if found.scheduled and not all(callable(group["lr"]) for group in current["param_groups"]):
            raise ValueError(
                "from_optax: the learning rate follows a schedule, which the state does not hold; set lr of opt "
                "to a function of the 1-based step, lambda step: schedule(step - 1), then convert"
            )
        # On the host, and found to be there (JAX deletes arrays that were donated), before anything is written.
        columns = zip(*([np.asarray(leaf) for leaf in leaves] for leaves in found.leaves), strict=True)
        names = found.names_like(contents.members)
        sources = [
            Source(name, label, count, dict(zip(MOMENTS, column, strict=False)))
            for name, label, column in zip(names, found.labels, columns, strict=True)
        ]
        take_over("from_optax", contents, [(_options(found), sources)], copy)


def to_optax(opt: Adam, state: Any) -> Any:
    """Return an optimizer's state as a state of optax's ``adam``, ``adamw`` or ``amsgrad``.

    Parameters
    ----------
    opt : Adam
        The optimizer; all its parameters have taken the same number of steps.
    state : optax state
        A state of the transformation with which training goes on, such as ``tx.init(params)``: what
        `from_optax` takes. It gives the structure, the dtypes and the devices, and is not changed.

    Returns
    -------
    optax state
        A copy of `state` with the moments and the counter of `opt`, and the counters of schedules set to it.
        What ``inject_hyperparams`` shows is set to the options of `opt`, but for what a schedule decides.

    Raises
    ------
    TypeError, ValueError
        If `state` is not what `from_optax` takes, if the parameters do not fit in number, names, shapes or
        dtypes, or if `opt` holds what optax cannot: step counters that differ, or more than 2**31 - 1 steps.
        With ``inject_hyperparams``, also if an option of `opt` has no counterpart in what it shows.
    ImportError
        If JAX is missing.

    Notes
    -----
    See `from_optax` for how parameters are matched and what becomes of amsgrad's maximum. Without
    ``inject_hyperparams``, options are not in the state: make the transformation with those of `opt`.
    ``mu`` is rounded to the dtype that it has in `state` (optax's ``mu_dtype``), as optax does at each step.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np, optax, fastadam
    >>> from fastadam import convert
    >>> w = np.ones(3, np.float32)
    >>> ours = fastadam.Adam({"w": w}, lr=0.5)
    >>> ours.step({"w": np.ones(3, np.float32)})
    >>> theirs, params = optax.adam(0.5), {"w": jnp.array(w)}
    >>> state = convert.to_optax(ours, theirs.init(params))
    >>> int(state[0].count)
    1
    """
    check_optimizer(opt)
    found = Found(state, "to_optax")
    second = found.leaves[1]  # mu can have a dtype of its own
    with opt._exclusive("to_optax") as contents:
        members, current = contents.members, saved_for(contents, "to_optax")
        targets = [
            Described(name, label, [describe(leaf)])
            for name, label, leaf in zip(found.names_like(members), found.labels, second, strict=True)
        ]
        _check_amsgrad(found, current, "to_optax", "take a state of optax's amsgrad where that is True")
        order = pair("to_optax", members, targets)
        count = common_step("to_optax", current, members, MOST_STEPS)
        hyperparams = None
        if found.hyperparams is not None:
            hyperparams = _hyperparams(found, common_options("to_optax", current))
        beta2 = {key: group["betas"][1] for group in current["param_groups"] for key in group["params"]}
        moments = []
        for moment, leaves in zip(MOMENTS, found.leaves, strict=False):
            arrays = [moment_of(current, position, moment, members[position]) for position in order]
            if moment == MOMENTS[2] and count:
                for position, array in zip(order, arrays, strict=True):
                    array /= bias_correction(*log_of(beta2[position]), count)
            moments.append([array.astype(leaf.dtype) for array, leaf in zip(arrays, leaves, strict=True)])
    return rebuild(state, found, count, moments, hyperparams)


def _check_counts(found: Found) -> int:
    """Return the state's counter, which those of schedules are too."""
    for what, value in found.counters:
        array = np.asarray(value)
        if array.ndim or array.dtype.kind not in "iu" or array < 0:
            raise ValueError(
                f"from_optax: the count of {what} must be a whole number of at least 0, got {value!r}"
            )
    counts = [int(value) for _, value in found.counters]
    for (what, _), count in zip(found.counters, counts, strict=True):
        if count != counts[0]:
            raise ValueError(
                f"from_optax: the count of {what} is {count}, that of Adam {counts[0]}, and here there is only "
                f"one; convert Adam's state by itself"
            )
    return counts[0]


def _check_amsgrad(found: Found, current: Mapping[str, Any], what: str, remedy: str) -> None:
    amsgrad = len(found.leaves) == len(MOMENTS)
    for i, group in enumerate(current["param_groups"]):
        if group["amsgrad"] != amsgrad:
            raise ValueError(
                f"{what}: amsgrad is {group['amsgrad']} in param_groups[{i}], and the optax state is a "
                f"{type(found.adam).__name__}; {remedy.format(amsgrad)}"
            )


def _shown(found: Found) -> dict[str, float]:
    """Return the options that inject_hyperparams shows, as the numbers that optax computes with."""
    shown = {key: np.asarray(value) for key, value in (found.hyperparams or {}).items()}
    for key, value in shown.items():
        if key not in (*SHOWN, *BETAS, "eps_root") or value.ndim:
            raise TypeError(
                f"{found.what}: inject_hyperparams shows {key} = {value!r:.100}, which has no counterpart here; "
                f"convert its inner_state, and see to the options yourself"
            )
    if shown.get("eps_root", 0) != 0:
        raise ValueError(f"{found.what}: eps_root is {shown['eps_root']:.3g}, and there is none here; make it 0")
    return {key: float(value) for key, value in shown.items()}


def _options(found: Found) -> dict[str, Any]:
    """Return the options that take the place of the optimizer's."""
    if found.hyperparams is None:
        return {}
    shown = _shown(found)
    options: dict[str, Any] = {ours: shown[key] for key, ours in SHOWN.items() if key in shown}
    if found.scheduled:
        options.pop("lr", None)
    if all(key in shown for key in BETAS):
        options["betas"] = tuple(shown[key] for key in BETAS)
    return {"weight_decay": 0.0, **options, "decoupled_weight_decay": True, "maximize": False}


def _hyperparams(found: Found, options: Mapping[str, Any]) -> dict[str, float]:
    """Return what inject_hyperparams is to show, for the options that all groups have; schedules stay."""
    shown = _shown(found)
    if options["maximize"]:
        raise ValueError(
            "to_optax: maximize is on, which optax does not have; negate the loss and set it to False"
        )
    if options["weight_decay"] and not (options["decoupled_weight_decay"] and "weight_decay" in shown):
        raise ValueError(
            f"to_optax: weight_decay is {options['weight_decay']}, and state has no decoupled decay to set; "
            f"take a state of optax.adamw, with decoupled_weight_decay=True here"
        )
    if callable(options["lr"]) and not found.scheduled and "learning_rate" in shown:
        raise ValueError("to_optax: lr is a function, and state has a number; make it with a schedule")
    values = {key: options[ours] for key, ours in SHOWN.items()}
    values.update(zip(BETAS, options["betas"], strict=True), eps_root=0.0)
    return {key: values[key] for key in shown if key != "learning_rate" or not found.scheduled}
