"""State: the live view, saved copies in torch's layout, copies and pickles."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastadam
from tests.support import strategies
from tests.support.bits import assert_same_bits, assert_same_state, random_arrays, snapshot
from tests.support.strategies import examples

SHAPES: list[tuple[int, ...]] = [(4, 3), (), (9,)]
LAYOUTS = ("in place", "packed", "objects")


def make(params: list[np.ndarray], layout: str, **options: Any) -> tuple[fastadam.Adam, list[np.ndarray]]:
    """Return an optimizer in one of the three layouts, and its arrays."""
    if layout == "packed":
        flat = fastadam.pack(params)
        return fastadam.Adam(flat, **options), flat.param_views
    copies = [param.copy() for param in params]
    given_ = copies if layout == "in place" else [fastadam.Parameter(param) for param in copies]
    return fastadam.Adam(given_, **options), copies


@examples(12)
@given(
    options=strategies.options(),
    dtype=st.sampled_from(strategies.DTYPES),
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    none_at=st.one_of(st.none(), st.integers(0, 2)),
    seed=strategies.seeds,
)
def test_saved_and_reloaded_runs_give_the_same_bits(
    backend: str, options: Any, dtype: Any, layouts: Any, none_at: Any, seed: int
) -> None:
    """A run that is saved and goes on in any other layout ends where the uninterrupted run ends."""
    start = random_arrays(SHAPES, dtype, seed)

    def grads(step: int) -> list[Any]:
        drawn: list[Any] = list(random_arrays(SHAPES, dtype, seed + step + 1))
        if none_at is not None and step == 1:
            drawn[none_at] = None
        return drawn

    whole, whole_params = make(start, layouts[0], **options, backend="numpy")
    first, first_params = make(start, layouts[0], **options, backend=backend)
    for step in range(3):
        whole.step(grads(step))
        first.step(grads(step))
    saved = pickle.loads(pickle.dumps(first.state_dict()))
    second, second_params = make([p.copy() for p in first_params], layouts[1], backend=backend)
    second.load_state_dict(saved)
    for step in range(3, 6):
        whole.step(grads(step))
        second.step(grads(step))
    for a, b in zip(second_params, whole_params, strict=True):
        assert_same_bits(a, b)
    assert_same_state(snapshot(second), snapshot(whole))


def test_state_dict_has_torchs_layout() -> None:
    optimizer = fastadam.Adam(
        [{"params": [np.ones(2)]}, {"params": [np.ones((2, 2), np.float32)], "amsgrad": True}]
    )
    assert optimizer.state_dict()["state"] == {}
    optimizer.step([np.ones(2), np.ones((2, 2), np.float32)])
    saved = optimizer.state_dict()
    assert list(saved) == ["state", "param_groups"]
    assert list(saved["state"]) == [0, 1]
    assert list(saved["state"][0]) == ["step", "exp_avg", "exp_avg_sq"]
    assert list(saved["state"][1]) == ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert saved["state"][1]["exp_avg"].shape == (2, 2)
    assert saved["state"][1]["exp_avg"].dtype == np.float32
    assert saved["state"][0]["step"].dtype == np.int64
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1]]
    assert saved["param_groups"][1]["betas"] == (0.9, 0.999)


def test_what_is_handed_out_or_in_is_copied() -> None:
    param = np.ones(3)
    optimizer = fastadam.Adam(param)
    optimizer.step(np.ones(3))
    before = snapshot(optimizer)
    saved = optimizer.state_dict()
    saved["state"][0]["exp_avg"][...] = 7
    saved["param_groups"][0]["lr"] = 7.0
    assert_same_state(snapshot(optimizer), before)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    optimizer.load_state_dict(saved)
    saved["state"][0]["exp_avg"][...] = 8
    assert (optimizer.state[0]["exp_avg"] == 7).all()
    assert optimizer.param_groups[0]["lr"] == 7.0


def test_edits_are_saved_in_canonical_types() -> None:
    optimizer = fastadam.Adam(np.ones(2))
    optimizer.param_groups[0]["amsgrad"] = 0  # equal to False, so the same option
    assert optimizer.state_dict()["param_groups"][0]["amsgrad"] is False
    optimizer.param_groups[0].update(lr=np.float32(0.5), amsgrad=False)
    saved = optimizer.state_dict()
    assert type(saved["param_groups"][0]["lr"]) is float
    optimizer.load_state_dict(saved)


def test_names_are_kept_and_matched() -> None:
    first = fastadam.Adam({"w": np.ones(2), "b": np.ones(3)})
    first.step({"w": np.ones(2), "b": np.full(3, 2.0)})
    saved = first.state_dict()
    assert saved["param_groups"][0]["param_names"] == ["w", "b"]
    second = fastadam.Adam({"b": np.ones(3), "w": np.ones(2)})
    second.load_state_dict(saved)
    assert_same_bits(second.state["w"]["exp_avg"], first.state["w"]["exp_avg"])
    assert_same_bits(second.state["b"]["exp_avg"], first.state["b"]["exp_avg"])


def test_a_named_state_loads_without_names_in_order() -> None:
    first = fastadam.Adam({"w": np.ones(2), "b": np.ones(3)})
    first.step([np.ones(2), np.ones(3)])
    second = fastadam.Adam([np.ones(2), np.ones(3)])
    second.load_state_dict(first.state_dict())
    assert second.state[1]["step"] == 1


def test_torch_only_options_are_dropped_and_old_dicts_load() -> None:
    optimizer = fastadam.AdamW(np.ones(2))
    optimizer.step(np.ones(2))
    saved = optimizer.state_dict()
    saved["param_groups"][0].update(
        foreach=None, fused=True, capturable=False, differentiable=False, initial_lr=0.1
    )
    del saved["param_groups"][0]["decoupled_weight_decay"], saved["param_groups"][0]["maximize"]
    saved["state"][0]["step"] = np.float32(1.0)
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    assert "fused" not in optimizer.param_groups[0]
    assert optimizer.state[0]["step"] == 1


def test_loading_an_empty_state_starts_over() -> None:
    optimizer = fastadam.Adam([np.ones(2), np.ones(2)])
    fresh = optimizer.state_dict()
    optimizer.step([np.ones(2), None])
    optimizer.load_state_dict(fresh)
    assert len(optimizer.state) == 0
    assert not optimizer._groups[0].moment("exp_avg", 0).any()


def test_loading_keeps_references_to_group_dicts_valid() -> None:
    optimizer = fastadam.Adam(np.ones(2))
    group = optimizer.param_groups[0]
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 0.5
    optimizer.load_state_dict(saved)
    assert group["lr"] == 0.5
    group["lr"] = 0.25
    param = optimizer.param_groups[0]["params"][0]
    optimizer.step(np.ones(2))
    np.testing.assert_allclose(param, 0.75)


def test_state_is_a_live_view_by_position_name_and_array(backend: str) -> None:
    w, b = np.ones(2), np.ones((2, 2))
    holder = fastadam.Parameter(b)
    optimizer = fastadam.Adam({"w": w, "b": holder}, backend=backend)
    assert len(optimizer.state) == 0
    assert 0 not in optimizer.state
    optimizer.step({"w": np.ones(2), "b": None})
    assert list(optimizer.state) == [0]
    assert "b" not in optimizer.state
    optimizer.step({"w": np.ones(2), "b": np.ones((2, 2))})
    assert list(optimizer.state) == [0, 1]
    for key in (1, "b", b, holder):
        assert optimizer.state[key]["step"] == 1
        assert optimizer.state[key]["exp_avg"].shape == (2, 2)
    optimizer.state["w"]["exp_avg"][...] = 0.0
    before = w.copy()
    optimizer.step({"w": np.zeros(2), "b": None})
    assert_same_bits(w, before)  # a first moment of zero and a zero gradient move nothing
    with pytest.raises(KeyError):
        optimizer.state["nonsense"]
    assert "exp_avg" in repr(optimizer.state)


def calls_of(work: Callable[[], object]) -> int:
    """Return how many calls, of functions and into generators, a piece of work takes."""
    seen = [0]

    def count(frame: Any, event: str, argument: Any) -> None:
        seen[0] += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return seen[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_of_the_state_is_read_in_linear_time(layout: str) -> None:
    def calls(n: int) -> int:
        optimizer, params = make([np.ones(2, np.float32) for _ in range(n)], layout, backend="numpy")
        optimizer.step([np.ones(2, np.float32) for _ in range(n)])
        assert len(dict(optimizer.state.items())) == n
        return calls_of(lambda: [list(optimizer.state.items()), [optimizer.state[each] for each in params]])

    assert calls(200) < 2.5 * calls(100)


def test_a_key_that_finds_nothing_says_why() -> None:
    w, b = np.ones(2), np.ones((2, 2))
    optimizer = fastadam.Adam({"w": w, "b": b})
    optimizer.step({"w": np.ones(2), "b": None})
    for key in (1, "b", b):
        with pytest.raises(KeyError, match="not been stepped yet"):
            optimizer.state[key]
    for key, why in ((2, "parameters 0 to 1"), ("x", "there are w, b"), (w.copy(), "not one of the optimizer's")):
        with pytest.raises(KeyError, match=why):
            optimizer.state[key]
        with pytest.raises(KeyError, match="keeps no averages"):
            optimizer.ema[key]
    nameless = fastadam.Adam([w])
    with pytest.raises(KeyError, match="they have none"):
        nameless.state["w"]
    many = fastadam.Adam({f"w{i}": np.ones(1) for i in range(11)})
    with pytest.raises(KeyError, match=r"there are w0, .*, w9, \.\.\."):
        many.state["w11"]


@pytest.mark.parametrize("key", [0.0, False, np.int64(0), np.float32(0), "w"])
def test_whatever_equals_a_key_of_the_state_finds_it(key: Any) -> None:
    optimizer = fastadam.Adam({"w": np.ones(2), "b": np.ones(3)})
    optimizer.step([np.ones(2), np.ones(3)])
    assert optimizer.state[key]["exp_avg"].shape == (2,)


@pytest.mark.parametrize("key", [-1, 2, 10**30, 0.5, "0", None, [0], np.ones(2), fastadam.Parameter(np.ones(2))])
def test_nothing_else_finds_anything_in_the_state(key: Any) -> None:
    optimizer = fastadam.Adam({"w": np.ones(2), "b": np.ones(3)})
    optimizer.step([np.ones(2), np.ones(3)])
    assert key not in optimizer.state
    with pytest.raises(KeyError):
        optimizer.state[key]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_and_pickles_go_on_with_the_same_bits(backend: str, layout: str, how: Any) -> None:
    start = random_arrays(SHAPES, np.float32, 0)
    optimizer, params = make(start, layout, weight_decay=0.1, amsgrad=True, backend=backend)
    optimizer.step(random_arrays(SHAPES, np.float32, 1))
    twin = how(optimizer)
    assert type(twin) is type(optimizer)
    assert twin.backend == backend
    if how is not copy.copy:
        before = [param.copy() for param in params]
        twin.step(random_arrays(SHAPES, np.float32, 2))
        for param, old in zip(params, before, strict=True):
            assert_same_bits(param, old)  # the copy has arrays of its own
        optimizer.step(random_arrays(SHAPES, np.float32, 2))
        assert_same_state(snapshot(twin), snapshot(optimizer))
    else:
        assert twin.param_groups[0]["params"][0] is optimizer.param_groups[0]["params"][0]


def test_a_copy_shares_arrays_with_a_model_that_is_copied_along() -> None:
    model = {"w": np.ones(3)}
    both = {"model": model, "optimizer": fastadam.AdamW(model)}
    twins = copy.deepcopy(both)
    twins["optimizer"].step({"w": np.ones(3)})
    assert twins["model"]["w"][0] < 1.0
    assert model["w"][0] == 1.0
    assert isinstance(twins["optimizer"], fastadam.AdamW)


def test_groups_that_are_added_have_the_defaults_of_then() -> None:
    optimizer = fastadam.Adam(np.ones(2))
    optimizer.defaults["lr"] = 0.5
    optimizer.add_param_group({"params": np.ones(2)})
    optimizer.defaults = {**optimizer.defaults, "eps": 0.25}
    optimizer.add_param_group({"params": np.ones(2)})
    assert [(group["lr"], group["eps"]) for group in optimizer.param_groups] == [
        (1e-3, 1e-8),
        (0.5, 1e-8),
        (0.5, 0.25),
    ]


class Noting(fastadam.Adam):
    """Has attributes of its own, one of them set before those of the optimizer."""

    def __init__(self, params: Any) -> None:
        self.early = "early"
        super().__init__(params)
        self.late = "late"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_attributes_of_users_travel_and_the_optimizers_own_never(layout: str) -> None:
    """Whatever the optimizer made for itself on the way, in copies there is only what others have set."""
    plain, params = make(random_arrays(SHAPES, np.float32, 0), layout, amsgrad=True, backend="numpy")
    grads = random_arrays(SHAPES, np.float32, 1)
    plain.step(grads)
    plain.step([None, *grads[1:]])
    plain.param_groups[0]["lr"] = 0.5
    plain.step(grads)
    plain.zero_grad()
    plain.load_state_dict(plain.state_dict())
    plain.add_param_group({"params": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match="grads has"):
        plain.step([])
    repr(plain)
    list(plain.state.items())
    assert vars(plain) == {}
    assert plain.__getstate__()["subclass"] == {}
    noting = Noting(params[0])
    noting.added = "added"  # type: ignore[attr-defined]
    noting.step(grads[:1])
    for twin in (copy.deepcopy(noting), pickle.loads(pickle.dumps(noting))):
        assert vars(twin) == {"early": "early", "late": "late", "added": "added"}


def test_pickles_have_the_layout_that_they_have_always_had() -> None:
    optimizer = fastadam.AdamW({"w": np.ones(3)}, lr=0.1, threads=2, backend="numpy")
    optimizer.step([np.ones(3)])
    state = optimizer.__getstate__()
    layout = {"groups", "defaults", "backend", "threads", "state", "subclass"}
    assert layout <= set(state)
    assert set(state) - layout == {"averaging", "gradient_settings", "lazy", "skipped_steps"}, (
        "what old pickles lack"
    )
    old = fastadam.AdamW.__new__(fastadam.AdamW)
    old.__setstate__(
        {
            "groups": [{"params": [("w", np.ones(3))], "param_names": ("w",), **state["defaults"]}],
            "defaults": state["defaults"],
            "backend": "numpy",
            "threads": 2,
            "state": state["state"],
            "subclass": {"extra": 7},
        }
    )
    assert vars(old) == {"extra": 7}
    assert old.threads == 2
    optimizer.load_state_dict(old.state_dict())
    assert old.state["w"]["step"] == 1
    assert_same_bits(old.state["w"]["exp_avg"], optimizer.state["w"]["exp_avg"])


def test_packed_buffers_copy_with_their_views() -> None:
    flat = fastadam.pack({"w": np.ones(3)})
    flat.grads["w"][...] = 2
    for twin in (copy.deepcopy(flat), pickle.loads(pickle.dumps(flat))):
        twin.param[0] = 5
        assert twin.params["w"][0] == 5
        assert twin.grads["w"][0] == 2
        assert flat.params["w"][0] == 1
