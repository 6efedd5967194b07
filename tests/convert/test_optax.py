"""Training begun with optax goes on here, and back, and agrees with optax going on by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import convert
from tests.support.bits import assert_same_bits, assert_same_state, snapshot
from tests.support.convert_cases import (
    SHAPES,
    STEPS,
    TOLERANCE,
    assert_near,
    assert_refuses,
    gradient,
    params,
    train,
)

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each dtype; JAX has float64 only where it was told so."""
    jax.config.update("jax_enable_x64", request.param == "float64")
    yield str(request.param)
    jax.config.update("jax_enable_x64", False)


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    return {"head": flat["head"], "layer": {"b": flat["layer/b"], "w": flat["layer/w"]}}


def flattened(tree: Any) -> dict[str, np.ndarray]:
    return {
        "head": np.array(tree["head"]),
        "layer/b": np.array(tree["layer"]["b"]),
        "layer/w": np.array(tree["layer"]["w"]),
    }


def go_on(tx: Any, tree: Any, state: Any, first: int) -> tuple[Any, Any]:
    for step in range(first, first + STEPS):
        grads = jax.tree.map(lambda leaf, step=step: jax.numpy.asarray(gradient(leaf, step)), tree)
        updates, state = tx.update(grads, state, tree)
        tree = optax.apply_updates(tree, updates)
    return tree, state


def trained(tx: Any, dtype: str = "float32") -> tuple[Any, Any]:
    """Return parameters and state after some steps."""
    tree = jax.tree.map(jax.numpy.asarray, nested(params(dtype)))
    return go_on(tx, tree, tx.init(tree), 0)


def schedule(step: Any) -> Any:
    return 0.05 / (1 + step)


DECAYED = {"head": False, "layer/b": False, "layer/w": True}
# What is made in optax, and the optimizer that does the same here.
CASES: dict[str, tuple[Any, Any]] = {
    "adam": (
        lambda: optax.adam(0.05, b1=0.5, eps=1e-3),
        lambda arrays: fastadam.Adam(arrays, 0.05, betas=(0.5, 0.999), eps=1e-3),
    ),
    "adamw": (
        lambda: optax.adamw(0.05, weight_decay=0.1),
        lambda arrays: fastadam.AdamW(arrays, 0.05, weight_decay=0.1),
    ),
    "a mask for decay": (
        lambda: optax.adamw(
            0.05, weight_decay=0.1, mask=nested({"head": False, "layer/b": False, "layer/w": True})
        ),
        lambda arrays: fastadam.AdamW(
            [
                {"params": {"layer/w": arrays["layer/w"]}, "weight_decay": 0.1},
                {"params": {name: arrays[name] for name in ("layer/b", "head")}, "weight_decay": 0.0},
            ],
            0.05,
        ),
    ),
    "a schedule": (
        lambda: optax.adamw(schedule),
        lambda arrays: fastadam.AdamW(arrays, lambda step: schedule(step - 1), weight_decay=1e-4),
    ),
    "a chain": (
        lambda: optax.chain(optax.clip(1e9), optax.named_chain(("adam", optax.adam(0.05)))),
        lambda arrays: fastadam.Adam(arrays, 0.05),
    ),
    "hyperparameters": (
        lambda: optax.inject_hyperparams(optax.adamw)(0.05, b2=0.9, eps=1e-3, weight_decay=0.1),
        lambda arrays: fastadam.Adam(arrays),
    ),
    "scheduled hyperparameters": (
        lambda: optax.inject_hyperparams(optax.adam)(schedule, b1=0.8),
        lambda arrays: fastadam.Adam(arrays, lambda step: schedule(step - 1)),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("named", [True, False])
def test_training_goes_on_here_and_back(case: str, dtype: str, named: bool) -> None:
    if case == "a mask for decay" and not named:
        pytest.skip("the groups are made by name")
    tx, make = CASES[case][0](), CASES[case][1]
    tree, state = trained(tx, dtype)
    arrays = flattened(tree)
    ours = make(arrays if named else list(arrays.values()))
    convert.from_optax(state, ours)
    train(ours, arrays, STEPS)
    tree, state = go_on(tx, tree, state, STEPS)
    assert_near(arrays, flattened(tree))
    back = convert.to_optax(ours, tx.init(tree))
    assert jax.tree.structure(back) == jax.tree.structure(state)
    if case == "scheduled hyperparameters":  # optax computes the learning rate anew before it uses it
        back.hyperparams["learning_rate"] = state.hyperparams["learning_rate"]
    for mine, other in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(mine, other, rtol=0, atol=TOLERANCE[dtype])
    tree = jax.tree.map(jax.numpy.asarray, nested(arrays))
    tree, _ = go_on(tx, tree, back, 2 * STEPS)
    train(ours, arrays, 2 * STEPS)
    assert_near(arrays, flattened(tree))


def test_every_bit_of_the_state_arrives_and_returns() -> None:
    tx = optax.adam(0.05)
    tree, state = trained(tx)
    ours = fastadam.Adam(fastadam.pack(flattened(tree)))
    convert.from_optax(state, ours)
    for field, name in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        for key, leaf in flattened(getattr(state[0], field)).items():
            assert_same_bits(ours.state[key][name], leaf)
    back = convert.to_optax(ours, tx.init(tree))
    for mine, other in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert_same_bits(np.asarray(mine), np.asarray(other))
    before = jax.tree.map(np.array, back)
    ours.step({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
    for mine, other in zip(jax.tree.leaves(back), jax.tree.leaves(before), strict=True):
        assert_same_bits(np.asarray(mine), other)  # no memory is shared


def test_a_part_of_the_parameters_and_one_bare_array() -> None:
    mask = nested({"head": True, "layer/b": True, "layer/w": False})
    tx = optax.masked(optax.adam(0.05), mask)
    tree, state = trained(tx)
    arrays = {name: array for name, array in flattened(tree).items() if name != "layer/w"}
    ours = fastadam.Adam(arrays, 0.05)
    convert.from_optax(state, ours)
    train(ours, arrays, STEPS)
    tree, state = go_on(tx, tree, state, STEPS)
    assert_near(arrays, {name: flattened(tree)[name] for name in arrays})
    assert jax.tree.structure(convert.to_optax(ours, state)) == jax.tree.structure(state)

    bare = optax.adam(0.05)
    leaf, state = go_on(bare, jax.numpy.ones(3), bare.init(jax.numpy.ones(3)), 0)
    array = np.array(leaf)
    ours = fastadam.Adam({"any name": array}, 0.05)
    convert.from_optax(state, ours)
    train(ours, {"any name": array}, STEPS)
    assert_near({"": array}, {"": go_on(bare, leaf, state, STEPS)[0]})


def test_amsgrad_agrees_once_the_bias_correction_is_one() -> None:
    """Optax's maximum is that of the corrected moments, so before that the rules themselves are others."""
    options = {"b2": 0.5}  # 0.5**(2 * 7) = 6e-5 is what the correction lacks after the steps below
    tx = optax.amsgrad(0.05, **options)
    tree, state = go_on(tx, *trained(tx), STEPS)
    arrays = flattened(tree)
    ours = fastadam.Adam(arrays, 0.05, betas=(0.9, 0.5), amsgrad=True)
    convert.from_optax(state, ours)
    back = convert.to_optax(ours, tx.init(tree))
    for mine, other in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(mine, other, rtol=3e-7)
    train(ours, arrays, 2 * STEPS)
    tree, _ = go_on(tx, tree, state, 2 * STEPS)
    for name, array in flattened(tree).items():
        # By at most half of 6e-5 of a step, which is about 0.05, in each of 7 steps; and roundings.
        np.testing.assert_allclose(arrays[name], array, rtol=0, atol=7 * 0.05 * 3.1e-5 + TOLERANCE["float32"])


def test_a_narrow_first_moment_is_widened_and_narrowed() -> None:
    tx = optax.adam(0.05, mu_dtype="bfloat16")
    tree, state = trained(tx)
    ours = fastadam.Adam(flattened(tree))
    convert.from_optax(state, ours)
    assert_same_bits(ours.state["layer/w"]["exp_avg"], np.asarray(state[0].mu["layer"]["w"], np.float32))
    back = convert.to_optax(ours, state)
    assert back[0].mu["layer"]["w"].dtype == "bfloat16"
    assert_same_bits(np.asarray(back[0].mu["layer"]["w"], np.float32), ours.state["layer/w"]["exp_avg"])


def test_no_steps_yet() -> None:
    tx = optax.amsgrad(0.05)
    tree = nested(params("float32"))
    ours = fastadam.Adam(flattened(tree), amsgrad=True)
    convert.from_optax(tx.init(tree), ours)
    assert len(ours.state) == 0
    back = convert.to_optax(ours, tx.init(tree))
    assert all(not np.asarray(leaf).any() for leaf in jax.tree.leaves(back))


def of(**changes: Any) -> Any:
    """Return an edited state of optax's Adam for one parameter of three numbers."""
    return optax.adam(0.1).init({"w": jax.numpy.ones(3)})[0]._replace(**changes)


def injected(**hyperparams: Any) -> Any:
    tx = optax.inject_hyperparams(optax.adam)(**{"learning_rate": 0.1, **hyperparams})
    return tx.init({"w": jax.numpy.ones(3)})


def init(tx: Any) -> Any:
    return tx.init({"w": jax.numpy.ones(3)})


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "no Adam": (lambda: init(optax.sgd(0.1)), ValueError, "holds 0 states of Adam"),
    "two Adams": (
        lambda: init(optax.chain(optax.adam(0.1), optax.adam(0.1))),
        ValueError,
        "holds 2 states of Adam and 0 of inject_hyperparams; pass one that holds one",
    ),
    "something that would be lost": (
        lambda: init(optax.chain(optax.trace(0.9), optax.adam(0.1))),
        TypeError,
        "there is a TraceState, which is no part of Adam's state and would be lost; convert the ScaleByAdamState",
    ),
    "accumulation": (lambda: init(optax.MultiSteps(optax.adam(0.1), 2)), TypeError, "there is a MultiStepsState"),
    "partitions": (
        lambda: init(optax.multi_transform({"a": optax.adam(0.1)}, {"w": "a"})),
        TypeError,
        "there is a PartitionState",
    ),
    "a schedule": (
        lambda: init(optax.adam(schedule)),
        ValueError,
        r"follows a schedule, .*; set lr of opt to a function of the 1-based step, lambda step: schedule\(st",
    ),
    "a schedule of its own": (
        lambda: injected(b1=lambda step: 0.9),
        TypeError,
        "b1 follows a WrappedScheduleState, .*; convert the inner_state",
    ),
    "eps_root": (lambda: injected(eps_root=1e-8), ValueError, "eps_root is 1e-08, and there is none here"),
    "unknown hyperparameters": (
        lambda: init(optax.inject_hyperparams(lambda rate: optax.adam(rate))(rate=0.1)),
        TypeError,
        "shows rate = array.*, which has no counterpart here; convert its inner_state",
    ),
    "a hyperparameter out of range": (lambda: injected(b1=1.5), ValueError, r"betas\[0\] must be in \[0, 1\)"),
    "a hyperparameter of NaN": (lambda: injected(learning_rate=np.nan), ValueError, "lr must be finite"),
    "counters that differ": (
        lambda: (of(), init(optax.scale_by_schedule(schedule))._replace(count=np.int32(7))),
        ValueError,
        "the count of the schedule is 7, that of Adam 0, and here there is only one",
    ),
    "a counter of floats": (
        lambda: of(count=np.float32(np.nan)),
        ValueError,
        "count of Adam must be a whole number",
    ),
    "a negative counter": (lambda: of(count=np.int32(-1)), ValueError, "count of Adam must be a whole"),
    "many counters": (lambda: of(count=np.zeros(2, np.int32)), ValueError, "count of Adam must be a whole"),
    "another shape": (
        lambda: of(mu={"w": np.ones(4, np.float32)}),
        ValueError,
        r"of another shape or dtype: parameter 'w' \(float32 \(4,\) in the source, float32 \(3,\) here\); make",
    ),
    "a wider dtype": (lambda: of(nu={"w": np.ones(3)}), ValueError, r"\(float64 \(3,\) in the source"),
    "other trees": (lambda: of(nu={"v": np.ones(3, np.float32)}), ValueError, "trees of different structures"),
    "no arrays": (lambda: of(nu={"w": 1}), TypeError, "nu of parameter 'w' is 1, which is no array"),
    "complex numbers": (
        lambda: init_of({"w": np.ones(3, np.complex64)}),
        TypeError,
        "parameter 'w' is complex; optax squares the modulus",
    ),
    "other names": (
        lambda: init_of({"v": np.ones(3, np.float32)}),
        ValueError,
        "from_optax: .*missing: 'w'; unexpected: parameter 'v'",
    ),
    "amsgrad": (
        lambda: init(optax.amsgrad(0.1)),
        ValueError,
        r"amsgrad is False in param_groups\[0\], and the optax state is a ScaleByAmsgradState; make opt with am",
    ),
}


def init_of(tree: Any) -> Any:
    return optax.adam(0.1).init(tree)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(case: str) -> None:
    make, error, match = REFUSED[case]
    source = make()
    assert_refuses(lambda ours: convert.from_optax(source, ours), "w", error, match)


def test_arrays_that_jax_deleted_change_nothing() -> None:
    ours = fastadam.Adam({"w": np.ones(3, np.float32)})
    ours.step({"w": np.full(3, 2, np.float32)})
    before = snapshot(ours)
    state = of(count=np.int32(5), nu={"w": jax.numpy.ones(3) * 2})
    state.nu["w"].delete()
    with pytest.raises(RuntimeError, match="deleted"):
        convert.from_optax(state, ours)
    assert_same_state(snapshot(ours), before)


def test_to_optax_refuses_what_optax_does_not_have() -> None:
    arrays = {"v": np.ones(3, np.float32), "w": np.ones(3, np.float32)}
    state = optax.adam(0.1).init(arrays)
    ours = fastadam.Adam(arrays)
    ours.step({"v": arrays["v"].copy(), "w": None})
    with pytest.raises(ValueError, match="parameter 'w' has taken 0 steps and parameter 'v' 1, but there is"):
        convert.to_optax(ours, state)
    with pytest.raises(ValueError, match=r"amsgrad is True in param_groups\[0\].*ScaleByAdamState"):
        convert.to_optax(fastadam.Adam(arrays, amsgrad=True), state)
    with pytest.raises(ValueError, match=r"to_optax: .*missing: 'x'; unexpected: parameter 'v'"):
        convert.to_optax(fastadam.Adam({"w": arrays["w"], "x": arrays["v"]}), state)
    with pytest.raises(ValueError, match=r"\(float32 \(3,\) in the target, float64 \(3,\) here\)"):
        convert.to_optax(fastadam.Adam({name: np.ones(3) for name in arrays}), state)
    moments = {"exp_avg": arrays["v"], "exp_avg_sq": arrays["v"]}
    saved = fastadam.Adam(arrays).state_dict()
    ours.load_state_dict({**saved, "state": {i: {"step": 2**31, **moments} for i in range(2)}})
    with pytest.raises(ValueError, match="2147483648 steps were taken, the counter there ends at 2147483647"):
        convert.to_optax(ours, state)
    shown = optax.inject_hyperparams(optax.adam)(0.1).init(arrays)
    for options, match in (
        ({"maximize": True}, "maximize is on"),
        ({"weight_decay": 0.1}, "weight_decay is 0.1, and state has no decoupled decay to set"),
        ({"lr": schedule}, "lr is a function, and state has a number"),
    ):
        with pytest.raises(ValueError, match=match):
            convert.to_optax(fastadam.Adam(arrays, **options), shown)
    groups = [{"params": {"v": arrays["v"]}}, {"params": {"w": arrays["w"]}, "lr": 0.5}]
    with pytest.raises(ValueError, match=r"lr is 0.001 in param_groups\[0\] and 0.5 in param_groups\[1\]"):
        convert.to_optax(fastadam.Adam(groups), shown)
    with pytest.raises(TypeError, match=r"opt must be a fastadam.Adam, got tuple"):
        convert.to_optax(state, state)


def test_the_tree_itself_as_parameters(dtype: str) -> None:
    """Nested parameters go by their paths, in whatever order; the state comes back as it was."""
    tree, state = trained(optax.adam(0.05), dtype)
    tree, state = (
        {"layers": [tree["layer"]], "head": tree["head"]},
        optax.adam(0.05).init({"layers": [tree["layer"]], "head": tree["head"]}),
    )
    tree, state = go_on(optax.adam(0.05), tree, state, 0)
    own = jax.tree.map(np.array, tree)
    ours = fastadam.Adam({"layers": own["layers"], "head": own["head"]}, 0.05)
    assert ours.param_groups[0]["param_names"][-1] == "head"
    convert.from_optax(state, ours)
    for name, moment in (
        ("layers.0.w", state[0].mu["layers"][0]["w"]),
        ("layers.0.b", state[0].mu["layers"][0]["b"]),
        ("head", state[0].mu["head"]),
    ):
        assert_same_bits(ours.state[name]["exp_avg"], np.asarray(moment))
    back = convert.to_optax(ours, optax.adam(0.05).init(tree))
    for one, other in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert_same_bits(np.asarray(one), np.asarray(other))
