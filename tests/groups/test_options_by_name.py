"""Options given by name: patterns of paths, shared out into groups."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import fastadam
from fastadam.groups.rules import matches
from fastadam.schedules import Linear
from tests.support.bits import assert_same_bits
from tests.support.strategies import examples


def model(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    layers = [{"w": rng.standard_normal((2, 2)), "b": rng.standard_normal(2)} for _ in range(3)]
    return {"layers": layers, "head": [rng.standard_normal(2), rng.standard_normal(1)]}


NAMES = [f"layers.{i}.{key}" for i in range(3) for key in "wb"] + ["head.0", "head.1"]


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    arrays = [layer[key] for layer in tree["layers"] for key in "wb"] + tree["head"]
    return dict(zip(NAMES, arrays, strict=True))


MATCHES = {
    "layers.0.w": ["layers.0.w"],
    "layers.0": ["layers.0.w", "layers.0.b"],
    "layers": NAMES[:6],
    "*.b": ["layers.0.b", "layers.1.b", "layers.2.b"],
    "*": NAMES,
    "layers.*.w": ["layers.0.w", "layers.1.w", "layers.2.w"],
    "layers.[12]": NAMES[2:6],
    "*.?": NAMES,
    "head.*": ["head.0", "head.1"],
    "layer": [],
    "0": [],
    "w": [],
    "LAYERS": [],
    "": [],
}


@pytest.mark.parametrize("pattern", MATCHES)
def test_what_a_pattern_stands_for(pattern: str) -> None:
    assert [name for name in NAMES if matches(pattern, name)] == MATCHES[pattern]


def test_a_name_with_brackets_stands_for_itself() -> None:
    assert matches("w[0]", "w[0]")
    assert matches("w[0]", "w[0].b")
    assert not matches("w[0]", "w1")


def test_the_last_pattern_counts(backend: str) -> None:
    params = model()
    rules = {"layers.0": 1e-2, "*.b": 0}
    optimizer = fastadam.Adam([{"params": params, "lr": rules}], lr=0.5, backend=backend)
    shown = {name: group["lr"] for group in optimizer.param_groups for name in group["param_names"]}
    assert shown == {
        "layers.0.w": 1e-2,
        "layers.0.b": 0,
        "layers.1.w": 0.5,
        "layers.1.b": 0,
        "layers.2.w": 0.5,
        "layers.2.b": 0,
        "head.0": 0.5,
        "head.1": 0.5,
    }
    assert [list(group["param_names"]) for group in optimizer.param_groups] == [
        ["layers.0.w"],
        ["layers.0.b", "layers.1.b", "layers.2.b"],
        ["layers.1.w", "layers.2.w", "head.0", "head.1"],
    ]
    saved = optimizer.state_dict()
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1, 2, 3], [4, 5, 6, 7]]
    assert [group["param_names"][0] for group in saved["param_groups"]] == [
        "layers.0.w",
        "layers.0.b",
        "layers.1.w",
    ]


COPIES = {
    "itself": lambda optimizer: optimizer,
    "copy": copy.copy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
}
values = {
    "lr": st.sampled_from([0.0, 0.1, 0.5]),
    "betas": st.sampled_from([(0.9, 0.99), (0.5, 0.9)]),
    "weight_decay": st.sampled_from([0.0, 0.3]),
    "amsgrad": st.booleans(),
    "maximize": st.booleans(),
    "state_dtype": st.sampled_from([None, "float32"]),  # the others' random bits depend on where a parameter is
}
patterns = st.sampled_from([pattern for pattern, found in MATCHES.items() if found])


@hypothesis.given(
    rules=st.fixed_dictionaries(
        {},
        optional={key: st.dictionaries(patterns, value, min_size=1, max_size=3) for key, value in values.items()},
    ),
    how=st.sampled_from(list(COPIES)),
    form=st.sampled_from(["nested", "by name"]),
)
@examples(12)
def test_each_parameter_is_stepped_with_its_options(rules: Any, how: str, form: str, backend: str) -> None:
    """The same bits as an optimizer for each parameter by itself."""
    params, defaults = model(), {"lr": 0.2, "weight_decay": 0.1}
    optimizer = fastadam.Adam([{"params": params, **rules}], backend=backend, **defaults)
    optimizer = COPIES[how](optimizer)
    expected = flat(model())
    alone = {}
    for name, array in expected.items():
        own: dict[str, Any] = dict(defaults)
        for key, rule in rules.items():
            for pattern, value in rule.items():
                if matches(pattern, name):
                    own[key] = value
        alone[name] = fastadam.Adam(array, backend=backend, **own)
    for seed in range(1, 4):
        grads = model(seed)
        optimizer.step(grads if form == "nested" else flat(grads))
        for name, grad in flat(grads).items():
            alone[name].step(grad)
    members = {member.name: member for group in optimizer._groups for member in group.members}
    for name, array in expected.items():
        assert_same_bits(members[name].array, array, name)
        assert optimizer.state[name]["step"] == 3


def test_schedules_by_name(backend: str) -> None:
    schedule = Linear(0.1, 0.01, 10)
    optimizer = fastadam.Adam(
        [{"params": model(), "lr": {"layers": schedule, "head.0": lambda step: 0.5}}], backend=backend
    )
    assert optimizer.param_groups[0]["lr"] is schedule
    assert len(optimizer.param_groups) == 3
    optimizer.step(model(1))


def test_pairs_and_named_tuples_have_names_too(backend: str) -> None:
    w, b = np.ones(2), np.ones(2)
    optimizer = fastadam.Adam([{"params": [("w", w), ("b", b)], "lr": {"b": 0.5, "w": 0.25}}], backend=backend)
    optimizer.step([np.ones(2), -np.ones(2)])
    assert w.round(5).tolist() == [0.75, 0.75]
    assert b.round(5).tolist() == [1.5, 1.5]


def test_a_list_in_another_order_than_the_groups_is_refused(backend: str) -> None:
    params = model()
    optimizer = fastadam.Adam([{"params": params, "lr": {"*.b": 0.5}}], backend=backend)
    before = copy.deepcopy(params)
    with pytest.raises(
        TypeError, match="options by name have put into groups in another order; nest gradients as"
    ):
        optimizer.step(list(flat(model(1)).values()))
    for name, array in flat(params).items():
        assert_same_bits(array, flat(before)[name])
    optimizer.step(model(1))
    whole = fastadam.Adam([{"params": model(), "lr": {"*": 0.5}}], backend=backend)
    whole.step(list(flat(model(1)).values()))  # one group, in order


def test_groups_with_names_join_and_load(tmp_path: Any, backend: str) -> None:
    optimizers = []
    for seed in (0, 5):
        optimizer = fastadam.Adam({"first": [np.ones(2)]}, backend=backend)
        optimizer.add_param_group({"params": model(seed), "weight_decay": {"*.w": 0.1}})
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1, 0.0]
        optimizers.append(optimizer)
    optimizers[0].step({"first": [np.ones(2)], **model(1)})
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for name in NAMES:
        assert_same_bits(optimizers[1].state[name]["exp_avg"], optimizers[0].state[name]["exp_avg"])
    assert optimizers[0].param_groups[1]["lr"] == 1e-3
    optimizers[0].param_groups[1]["lr"] = 0.25  # as any group's
    optimizers[0].step({"first": [np.ones(2)], **model(1)})


BAD = [
    pytest.param(
        {"lr": {"layer": 0.1}},
        ValueError,
        "lr has the pattern 'layer', which stands for no parameter; there are 'layers.0.w', .* and others",
        id="nothing",
    ),
    pytest.param(
        {"lr": {"*": -1}}, ValueError, r"lr\['\*'\]: lr must be finite and at least 0, got -1", id="value"
    ),
    pytest.param({"betas": {"*": 0.9}}, TypeError, r"betas\['\*'\]: betas must be a pair of numbers", id="betas"),
    pytest.param({"lr": {}}, TypeError, "lr must be a real number, got {}", id="empty"),
    pytest.param(
        {"lr": {0: 0.1}},
        TypeError,
        "lr must be a real number, got {0: 0.1} of type dict; values by name are",
        id="position",
    ),
    pytest.param({"lr": {"*": {"*": 1}}}, TypeError, "lr must be a real number", id="nested"),
    pytest.param({"learning_rate": {"*": 1}}, ValueError, "unknown option 'learning_rate'", id="unknown"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD)
def test_bad_rules(options: Any, error: Any, match: str) -> None:
    many = {"layers": [{"w": np.ones(1)} for _ in range(20)]}
    with pytest.raises(error, match=r"param_groups\[0\]: .*" + match):
        fastadam.Adam([{"params": many, **options}])


def test_rules_need_names_and_arrays_of_their_own() -> None:
    with pytest.raises(
        TypeError, match="lr is given by name, and the parameters have no names; give them in a mapp"
    ):
        fastadam.Adam([{"params": [np.ones(2)], "lr": {"*": 0.1}}])
    with pytest.raises(ValueError, match="options by name are not possible over a packed buffer"):
        fastadam.Adam([{"params": fastadam.pack({"w": np.ones(2)}), "lr": {"*": 0.1}}])
    with pytest.raises(
        TypeError, match=r"values by name are given in a group dict, {'params': ..., 'lr': {'layers.0'"
    ):
        fastadam.Adam({"w": np.ones(2)}, lr={"w": 0.1})  # type: ignore[arg-type]
