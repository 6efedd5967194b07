"""Parameters in nested containers: the bits of the flat optimizer, whatever lies in what."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastadam
from fastadam.work import nested
from tests.support.bits import assert_same_bits
from tests.support.nestings import Layer, count, leaves, made_of, nestings
from tests.support.strategies import examples

OPTIONS: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.01, "amsgrad": True}


def distinct(tree: Any) -> bool:
    """Whether no two leaves have the same path."""
    paths = [path for path, _ in leaves(tree)]
    return len(set(paths)) == len(paths)


def arrays_of(tree: Any, seed: int) -> Any:
    """Return the nesting around random arrays."""
    rng = np.random.default_rng(seed)
    return made_of(tree, lambda leaf: np.asarray(rng.standard_normal(leaf.shape)))


@st.composite
def gradients(draw: st.DrawFn, tree: Any, seed: int) -> tuple[Any, list[Any]]:
    """Draw gradients that are nested alike, in containers of other types, with some missing; and the flat list."""
    rng = np.random.default_rng(seed)
    there = [draw(st.integers(0, 5)) > 0 for _ in range(count(tree))]
    flat = [
        np.asarray(rng.standard_normal(leaf.shape)) if has else None
        for (_, leaf), has in zip(leaves(tree), there, strict=True)
    ]
    rest = iter(flat)
    how = draw(st.sampled_from(["same", "plain", "reversed", "other"]))

    def change(old: Any, new: Any) -> Any:
        if how == "same":
            return new
        if isinstance(new, tuple | list):
            if how == "plain" and not isinstance(new, Layer):
                return new
            return list(new) if how != "reversed" else tuple(new)
        pairs = list(new.items())
        return dict(pairs if how == "plain" else pairs[::-1])

    return made_of(tree, lambda leaf: next(rest), change), flat


@hypothesis.given(tree=nestings.filter(distinct), data=st.data(), native=st.booleans())
@examples(15)
def test_the_bits_of_the_flat_optimizer(tree: Any, data: st.DataObject, native: bool, backend: str) -> None:
    params = arrays_of(tree, 1)
    flat = [leaf.copy() for _, leaf in leaves(params)]
    expected = fastadam.Adam(flat, backend=backend, **OPTIONS)
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr(nested.Way, "try_native", lambda self, grads: None)
        optimizer = fastadam.Adam(params, backend=backend, **OPTIONS)
        if data.draw(st.booleans()):
            optimizer = pickle.loads(pickle.dumps(optimizer))
        for seed in range(3):
            grads, flat_grads = data.draw(gradients(tree, seed + 2))
            optimizer.step(grads)
            expected.step(flat_grads)
    found = [member.owner for member in optimizer._groups.members]
    names = [path for path, _ in leaves(params)]
    for position, (name, ours, theirs) in enumerate(zip(names, found, flat, strict=True)):
        assert_same_bits(ours, theirs, name)
        assert (position in optimizer.state) == (position in expected.state)
        if position in expected.state:
            key: Any = position if optimizer._groups.members[position].name is None else name
            for moment in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
                assert_same_bits(optimizer.state[key][moment], expected.state[position][moment], name)


@hypothesis.given(tree=nestings.filter(distinct), seed=st.integers(0, 9))
@examples(15)
def test_packed_gives_the_nesting_back(tree: Any, seed: int, backend: str) -> None:
    params = arrays_of(tree, 1)
    flat = [leaf.copy() for _, leaf in leaves(params)]
    expected = fastadam.Adam(flat, backend=backend, **OPTIONS)
    packed = fastadam.pack(params)
    optimizer = fastadam.Adam(packed, backend=backend, **OPTIONS)
    names = [path for path, _ in leaves(params)]
    for step in range(3):
        grads = arrays_of(tree, seed + step)
        expected.step([leaf for _, leaf in leaves(grads)])
        if step == 0:
            optimizer.step(grads)
        elif step == 1:
            for (path, view), (wanted, leaf) in zip(leaves(packed.grads), leaves(grads), strict=True):
                assert path == wanted
                view[...] = leaf
            optimizer.step()
        else:  # of copies, which have views of their own
            optimizer, packed = (copy.deepcopy if seed % 2 else lambda x: pickle.loads(pickle.dumps(x)))(
                (optimizer, packed)
            )
            optimizer.step(grads)
    for (path, view), name, leaf in zip(leaves(packed.params), names, flat, strict=True):
        assert path == name
        assert_same_bits(np.asarray(view), leaf, name)
    assert packed.names is None or packed.names == names


def model(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "layers": [{"w": rng.standard_normal((2, 3)), "b": rng.standard_normal(3)} for _ in range(2)],
        "head": Layer(rng.standard_normal(3), rng.standard_normal(1)),
        "none": (),
    }


NAMES = ["layers.0.w", "layers.0.b", "layers.1.w", "layers.1.b", "head.w", "head.b"]


def test_names_are_paths(backend: str) -> None:
    params = model()
    optimizer = fastadam.Adam(params, backend=backend)
    optimizer.step(model(1))
    assert list(optimizer.param_groups[0]["param_names"]) == NAMES
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == NAMES
    assert optimizer.state["layers.1.b"]["exp_avg"].shape == (3,)
    assert optimizer.state["head.w"]["step"] == optimizer.state[params["head"].w]["step"] == 1
    assert "layers.1" not in optimizer.state


GIVEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nested": lambda grads: grads,
    "by path": lambda grads: dict(leaves(grads)),
    "one after another": lambda grads: [leaf for _, leaf in leaves(grads)],
    "generator": lambda grads: (leaf for _, leaf in leaves(grads)),
    "other order": lambda grads: {"none": (), "head": tuple(grads["head"]), "layers": tuple(grads["layers"])},
}


@pytest.mark.parametrize("form", GIVEN.values(), ids=GIVEN.keys())
def test_every_form_of_gradients(form: Any, backend: str) -> None:
    ours, theirs = model(), model()
    fastadam.Adam(ours, backend=backend).step(form(model(1)))
    fastadam.Adam([leaf for _, leaf in leaves(theirs)], backend=backend).step([g for _, g in leaves(model(1))])
    for (name, one), (_, other) in zip(leaves(ours), leaves(theirs), strict=True):
        assert_same_bits(one, other, name)


def test_lists_of_lists_as_scikit_learn_has_them(backend: str) -> None:
    coefs, intercepts = [np.ones((2, 2)), np.ones((2, 1))], [np.ones(2), np.ones(1)]
    optimizer = fastadam.Adam([coefs, intercepts], backend=backend)
    optimizer.step([[np.ones((2, 2)), np.ones((2, 1))], [np.ones(2), None]])
    assert list(optimizer.param_groups[0]["param_names"]) == ["0.0", "0.1", "1.0", "1.1"]
    assert "1.1" not in optimizer.state
    assert coefs[1][0, 0] != 1


def test_parameter_objects_in_containers(backend: str) -> None:
    params = {"a": [fastadam.Parameter(np.ones(2))], "b": {"c": fastadam.Parameter(np.ones(1))}}
    optimizer = fastadam.Adam(params, backend=backend)
    params["a"][0].grad = np.ones(2)
    optimizer.step()
    assert list(optimizer.state) == [0]
    optimizer.step({"a": [np.ones(2)], "b": {"c": np.ones(1)}})
    assert optimizer.state["b.c"]["step"] == 1
    optimizer.zero_grad()
    assert params["a"][0].grad is None


def test_none_for_a_container_skips_all_in_it(backend: str) -> None:
    params, before = model(), model()
    optimizer = fastadam.Adam(params, backend=backend)
    grads = model(1)
    optimizer.step({**grads, "layers": [None, grads["layers"][1]], "none": None})
    assert [name for name in NAMES if name in optimizer.state] == NAMES[2:]
    assert_same_bits(params["layers"][0]["w"], before["layers"][0]["w"])


def test_groups_of_nestings(backend: str) -> None:
    encoder, head = {"encoder": [np.ones(2), np.ones(1)]}, {"head": {"w": np.ones(3)}}
    grads = {"encoder": [np.full(2, 2.0), np.ones(1)]}, {"head": {"w": np.full(3, -1.0)}}
    expected: list[Any] = []
    for given in (
        list(grads),  # one nesting for each group
        grads,
        {**grads[0], **grads[1]},  # one mapping with the keys of all
        {
            "encoder.0": grads[0]["encoder"][0],
            "encoder.1": grads[0]["encoder"][1],
            "head.w": grads[1]["head"]["w"],
        },
        [*grads[0]["encoder"], grads[1]["head"]["w"]],
    ):
        params = copy.deepcopy((encoder, head))
        optimizer = fastadam.Adam(
            [{"params": params[0]}, {"params": params[1], "lr": 0.5}], backend=backend, lr=0.1
        )
        optimizer = copy.copy(optimizer)
        optimizer.step(given)
        found = [leaf for _, leaf in leaves(list(params))]
        for ours, theirs in zip(found, expected or found, strict=True):
            assert_same_bits(ours, theirs)
        expected = expected or found
    assert expected[2].round(6).tolist() == [1.5] * 3


def test_a_nesting_that_joins_later(backend: str) -> None:
    params, more = model(), {"more": [{"x": np.ones(2)}]}
    optimizer = fastadam.Adam(params, backend=backend)
    optimizer.step(model(1))
    optimizer.add_param_group({"params": more, "lr": 0.25})
    optimizer.step({**model(1), "more": [{"x": np.ones(2)}]})
    optimizer.step([model(1), {"more": [{"x": np.ones(2)}]}])
    assert optimizer.state["more.0.x"]["step"] == 2
    assert optimizer.state["head.b"]["step"] == 3
    with pytest.raises(
        ValueError, match=r"the name 'more.0.x' is given to parameters 6 and 7; give them names that"
    ):
        optimizer.add_param_group({"params": {"more": [{"x": np.ones(2)}]}})


@pytest.mark.parametrize("deep", [500, 3000])
def test_thousands_of_containers_within_each_other(deep: int, backend: str) -> None:
    params: Any = [np.ones(2)]
    grads: Any = [np.ones(2)]
    for i in range(deep):
        params, grads = ([params], [grads]) if i % 2 else ({"k": params}, {"k": grads})
    optimizer = fastadam.Adam({"top": params}, backend=backend)
    optimizer.step({"top": grads})
    assert optimizer.state[0]["step"] == 1
    assert len(optimizer.param_groups[0]["param_names"][0].split(".")) == deep + 2
    packed = fastadam.pack({"top": params})
    assert fastadam.Adam(packed).step(packed.grads) is None


def test_containers_deeper_than_any_model_are_refused() -> None:
    params: Any = [np.ones(2)]
    for _ in range(10_001):
        params = [params]
    with pytest.raises(ValueError, match="params is nested more than 10,000 deep"):
        fastadam.Adam(params)
    while isinstance(params, list):  # let go of one after another
        params = params[0]


def test_minimize_takes_nestings(backend: str) -> None:
    params = model()

    def fun(params: Any) -> tuple[float, Any]:
        loss = sum(float((leaf**2).sum()) for _, leaf in leaves(params))
        return loss, {
            "layers": [{key: 2 * leaf for key, leaf in layer.items()} for layer in params["layers"]],
            "head": Layer(*(2 * leaf for leaf in params["head"])),
            "none": (),
        }

    found = fastadam.minimize(fun, params, steps=300, lr=0.1, keep_best=True, backend=backend)
    assert found.params is params
    assert found.loss < 1e-3
    assert max(abs(leaf).max() for _, leaf in leaves(params)) < 0.05


def test_checkpoints_and_state_dicts_carry_paths(tmp_path: Any, backend: str) -> None:
    pytest.importorskip("safetensors")
    params = model()
    optimizer = fastadam.Adam(params, backend=backend)
    optimizer.step(model(1))
    fastadam.save(tmp_path / "run.safetensors", optimizer)
    from safetensors import safe_open

    with safe_open(tmp_path / "run.safetensors", framework="np") as file:
        assert {f"param/{name}" for name in NAMES} <= set(file.keys())
    other = model(5)  # in another order, packed, and under the same paths
    again = fastadam.Adam(fastadam.pack({"head": other["head"], "layers": other["layers"]}), backend=backend)
    fastadam.load(tmp_path / "run.safetensors", again)
    third = fastadam.Adam(model(6), backend=backend)
    third.load_state_dict(again.state_dict())
    for name in NAMES:
        for moment in ("exp_avg", "exp_avg_sq"):
            assert_same_bits(again.state[name][moment], optimizer.state[name][moment], name)
            assert_same_bits(third.state[name][moment], optimizer.state[name][moment], name)
    for (name, leaf), position in zip(leaves(params), range(6), strict=True):
        assert_same_bits(again._groups.members[again._groups.positions[name]].array, leaf, name)
        assert third._groups.members[position].name == name
