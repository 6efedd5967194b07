"""The public functions over arrays on CUDA devices, under Numba's simulator (see `conftest.py`)."""

from __future__ import annotations

import copy
import functools
import os
import pickle
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from numba import cuda

import fastadam
from fastadam import convert
from fastadam.backends.cuda import launches
from fastadam.memory.cuda import arrays as cuda_arrays
from tests.support import strategies
from tests.support.bits import assert_same_bits, random_arrays
from tests.support.strategies import examples

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "set NUMBA_ENABLE_CUDASIM=1"

SHAPES: list[tuple[int, ...]] = [(3, 4), (), (17,), (0,), (2, 2, 2)]


def host(array: Any) -> np.ndarray:
    return array.copy_to_host() if hasattr(array, "copy_to_host") else array


def to_device(arrays: list[Any]) -> list[Any]:
    return [None if array is None else cuda.to_device(array) for array in arrays]


def assert_same(ours: fastadam.Adam, theirs: fastadam.Adam) -> None:
    """Fail unless parameters and states agree in every bit."""
    for mine, other in zip(ours._groups, theirs._groups, strict=True):
        for member, expected in zip(mine.members, other.members, strict=True):
            assert_same_bits(host(member.array), host(expected.array), member.label)
    mine, expected = ours.state_dict(), theirs.state_dict()
    assert mine["state"].keys() == expected["state"].keys()
    for key, entry in expected["state"].items():
        assert entry.keys() == mine["state"][key].keys()
        for name, value in entry.items():
            assert type(mine["state"][key][name]) in (np.ndarray, np.int64)
            assert_same_bits(np.asarray(mine["state"][key][name]), np.asarray(value), f"{name} of {key}")


LAYOUTS = ["in place", "packed", "parameters", "own arrays"]


def make(layout: str, arrays: list[np.ndarray], **options: Any) -> tuple[fastadam.Adam, Any]:
    """Return an optimizer over copies on the device, and a function that steps it with gradients of the host."""
    if layout == "packed":
        flat = fastadam.pack(arrays, device="cuda")
        optimizer = fastadam.Adam(flat, **options)

        def step(grads: list[Any]) -> None:
            if any(grad is None for grad in grads):
                optimizer.step(to_device(grads))
                return
            for view, grad in zip(flat.grads, grads, strict=True):
                view[...] = grad
            optimizer.step()
    elif layout == "parameters":
        params = [fastadam.Parameter(array) for array in to_device(arrays)]
        optimizer = fastadam.Adam(params, **options)

        def step(grads: list[Any]) -> None:
            for param, grad in zip(params, to_device(grads), strict=True):
                param.grad = grad
            optimizer.step()
    else:
        views = to_device(arrays) if layout == "in place" else fastadam.pack(arrays, device="cuda").params
        optimizer = fastadam.Adam(views, **options)

        def step(grads: list[Any]) -> None:
            optimizer.step(to_device(grads))

    assert optimizer.backend == "cuda"
    return optimizer, step


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", strategies.DTYPES)
def test_bits_are_those_of_the_host(layout: str, dtype: Any) -> None:
    arrays = random_arrays(SHAPES, dtype, 0)
    options = {"lr": 0.1, "weight_decay": 0.1, "maximize": True}
    ours, step = make(layout, arrays, **options)
    theirs = fastadam.Adam([array.copy() for array in arrays], backend="numpy", **options)
    for seed in range(1, 7):
        grads: list[Any] = list(random_arrays(SHAPES, dtype, seed))
        if seed == 3:
            grads[0] = grads[4] = None
        if seed == 5:
            for optimizer in (ours, theirs):
                optimizer.param_groups[0]["amsgrad"] = True
        step(grads)
        theirs.step(grads)
        assert_same(ours, theirs)
    assert theirs.state[0]["step"] == 5


@hypothesis.given(options=strategies.options(), shapes=st.lists(strategies.shapes, min_size=1, max_size=4))
@examples(8)
def test_any_options_and_shapes(options: dict[str, Any], shapes: list[tuple[int, ...]]) -> None:
    hypothesis.assume(sum(int(np.prod(shape)) for shape in shapes) < 500)
    arrays = random_arrays(shapes, np.float32, 0)
    theirs = fastadam.Adam([array.copy() for array in arrays], **options)
    made = [make(layout, arrays, **options) for layout in ("in place", "packed")]
    for seed in (1, 2):
        grads = random_arrays(shapes, np.float32, seed)
        theirs.step(grads)
        for _, step in made:
            step(grads)
    for ours, _ in made:
        assert_same(ours, theirs)


def test_float16_parameters_and_moments() -> None:
    """As float32 arithmetic, rounded to float16 after each step."""
    param = np.linspace(-1, 1, 21).astype(np.float16)
    grad = np.linspace(2, -3, 21).astype(np.float16)
    ours, step = make("in place", [param], lr=0.01)
    packed, packed_step = make("packed", [param], lr=0.01)
    first, second = np.zeros_like(param), np.zeros_like(param)
    for t in (1, 2, 3):
        step([grad])
        packed_step([grad])
        theirs = fastadam.Adam([param.astype(np.float32)], lr=0.01)
        theirs.load_state_dict(
            {
                "state": {
                    0: {
                        "step": t - 1,
                        "exp_avg": first.astype(np.float32),
                        "exp_avg_sq": second.astype(np.float32),
                    }
                },
                "param_groups": theirs.state_dict()["param_groups"],
            }
        )
        theirs.step([grad.astype(np.float32)])
        param = theirs.param_groups[0]["params"][0].astype(np.float16)
        first, second = (theirs.state[0][name].astype(np.float16) for name in ("exp_avg", "exp_avg_sq"))
    for optimizer in (ours, packed):
        saved = optimizer.state_dict()["state"][0]
        assert_same_bits(host(optimizer._groups[0].members[0].array), param)
        assert_same_bits(saved["exp_avg"], first)
        assert_same_bits(saved["exp_avg_sq"], second)


def test_one_optimizer_over_host_and_device() -> None:
    arrays = random_arrays([(5,), (3, 3), (4,), (2,)], np.float32, 0)
    flat = fastadam.pack([arrays[0]], device="cuda")
    param = fastadam.Parameter(arrays[3].copy())
    ours = fastadam.Adam(
        [
            {"params": flat},
            {"params": [arrays[1].copy(), cuda.to_device(arrays[2])], "weight_decay": 0.1},
        ],
        lr=0.1,
    )
    ours.add_param_group({"params": param, "amsgrad": True})
    theirs = fastadam.Adam(
        [
            {"params": [arrays[0].copy()]},
            {"params": [array.copy() for array in arrays[1:3]], "weight_decay": 0.1},
            {"params": [arrays[3].copy()], "amsgrad": True},
        ],
        lr=0.1,
        backend="numpy",
    )
    assert ours.backend.endswith("+cuda")
    for seed in range(1, 6):
        grads: list[Any] = list(random_arrays([(5,), (3, 3), (4,), (2,)], np.float32, seed))
        if seed == 2:
            grads[1] = None
        if seed == 4:
            grads[0] = grads[2] = None
        on_device = to_device(grads)
        ours.step([on_device[0], grads[1], on_device[2], grads[3]])
        theirs.step(grads)
        assert_same(ours, theirs)
    before = ours.state_dict()["state"]
    with pytest.raises(ValueError, match="has shape"):  # the last of all: nothing is written before
        ours.step([on_device[0], grads[1], on_device[2], np.ones(7, np.float32)])
    after = ours.state_dict()["state"]
    for key, entry in before.items():
        assert entry["step"] == after[key]["step"]
        assert_same_bits(entry["exp_avg"], after[key]["exp_avg"])


def test_conversions() -> None:
    array = random_arrays([(2, 3)], np.float32, 0)[0]
    moments = random_arrays([(2, 3)], np.float32, 1)[0], np.abs(random_arrays([(2, 3)], np.float32, 2)[0])
    ours, _ = make("in place", [array])
    convert.from_keras([np.int32(4), np.float32(0.5), *moments], ours)
    saved = ours.state_dict()
    assert (saved["state"][0]["step"], saved["param_groups"][0]["lr"]) == (4, 0.5)
    for name, moment in zip(("exp_avg", "exp_avg_sq"), moments, strict=True):
        assert_same_bits(saved["state"][0][name], moment)
    torch = pytest.importorskip("torch")
    again, _ = make("packed", [array])
    given = convert.to_torch(ours, torch.optim.Adam([torch.ones(2, 3, requires_grad=True)]))
    convert.from_torch(given, again)
    assert_same(again, ours)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_dicts_go_round(layout: str) -> None:
    arrays = random_arrays(SHAPES, np.float64, 0)
    grads = [random_arrays(SHAPES, np.float64, seed) for seed in (1, 2)]
    ours, step = make(layout, arrays, amsgrad=True)
    step(grads[0])
    again, step_again = make("packed" if layout != "packed" else "in place", arrays)
    for target, array in zip(again._groups[0].members, ours._groups[0].members, strict=True):
        target.array[...] = array.array
    again.load_state_dict(ours.state_dict())
    on_host = fastadam.Adam([host(member.array) for member in ours._groups[0].members], amsgrad=True)
    on_host.load_state_dict({**ours.state_dict(), "state": ours.state})  # live views on the device
    for each in (step, step_again, on_host.step):
        each(grads[1])
    assert_same(again, ours)
    assert_same(again, on_host)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.complex128])
def test_checkpoints_go_round(tmp_path: Any, dtype: Any) -> None:
    pytest.importorskip("safetensors")
    arrays = random_arrays(SHAPES, dtype, 0)
    ours, step = make("in place", arrays)
    step(random_arrays(SHAPES, dtype, 1))
    path = tmp_path / "run.safetensors"
    fastadam.save(path, ours, extra={"epoch": 1})
    again, step_again = make("packed", [np.zeros_like(array) for array in arrays])
    assert fastadam.load(path, again) == {"epoch": 1}
    assert_same(again, ours)
    if dtype != np.float16:
        on_host = fastadam.Adam([np.zeros_like(array) for array in arrays])
        fastadam.load(path, on_host)
        assert_same(again, on_host)
    for each in (step, step_again):
        each(random_arrays(SHAPES, dtype, 2))
    assert_same(again, ours)


def test_copies_and_pickles() -> None:
    flat = fastadam.pack({"w": np.arange(4.0), "b": np.ones(3)}, device="cuda")
    optimizer = fastadam.Adam(flat)
    flat.grad.fill(0.5)
    optimizer.step()
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert_same(again, optimizer)
        (packed,) = (group.packed for group in again._groups)
        assert packed is not None
        assert packed.param.address != flat.param.address  # type: ignore[attr-defined]
        again.step()
        optimizer_again = copy.deepcopy(optimizer)
        optimizer_again.step()
        assert_same(again, optimizer_again)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
@pytest.mark.parametrize("order", [1, -1])
def test_views_stay_together_with_their_optimizer(how: Any, order: int) -> None:
    flat = fastadam.pack({"w": np.arange(4.0), "b": np.ones(3)}, device="cuda")
    model = [flat.params, flat.param, flat.grads["w"], fastadam.Adam(flat)]
    twin = how(model[::order])[::order]
    for params, whole, grad, optimizer in (twin, model):
        grad.fill(0.5)
        optimizer.step()
        assert (host(params["w"]) < np.arange(4.0)).all()
        assert_same_bits(host(params["w"]), host(whole)[:4])
    assert_same_bits(host(twin[1]), host(flat.param))
    assert twin[1].address != flat.param.address  # type: ignore[attr-defined]
    assert copy.copy(twin[1]).address != twin[1].address


@pytest.mark.parametrize("layout", ["in place", "packed"])
def test_nested_containers(layout: str) -> None:
    def model(seed: int, move: Any) -> dict[str, Any]:
        w, b, scale = random_arrays([(2, 3), (3,), ()], np.float32, seed)
        return {"layers": [{"w": move(w), "b": move(b)}], "scale": (move(scale),)}

    params = model(0, cuda.to_device if layout == "in place" else np.copy)
    flat = fastadam.pack(params, device="cuda") if layout == "packed" else None
    optimizer, reference = fastadam.Adam(flat or params, lr=0.1), fastadam.Adam(model(0, np.copy), lr=0.1)
    for seed in range(1, 4):
        optimizer.step(model(seed, cuda.to_device))
        reference.step(model(seed, np.copy))
        assert_same(optimizer, reference)
    assert optimizer.state["layers.0.b"]["step"] == 3
    if flat is not None:
        assert_same_bits(host(flat.params["layers"][0]["w"]), reference._groups.members[0].array)
        assert type(flat.params["scale"]) is tuple


def test_gradients_are_cleared() -> None:
    flat = fastadam.pack([np.ones(3)], device="cuda")
    flat.grad.fill(2.0)
    fastadam.Adam(flat).zero_grad()
    assert not host(flat.grad).any()
    param = fastadam.Parameter(cuda.to_device(np.ones(3)))
    param.grad = cuda.to_device(np.ones(3))
    optimizer = fastadam.Adam([param])
    optimizer.zero_grad(set_to_none=False)
    assert not host(param.grad).any()
    optimizer.zero_grad()
    assert param.grad is None


def test_packing_where_arrays_are() -> None:
    arrays = [cuda.to_device(np.arange(4.0)), cuda.to_device(np.ones((2, 2)))]
    flat = fastadam.pack(arrays)
    assert isinstance(flat.param, cuda_arrays.CudaArray)
    assert_same_bits(host(flat.params[0]), np.arange(4.0))
    back = fastadam.pack(flat.params, device="cpu")
    assert isinstance(back.param, np.ndarray)
    assert_same_bits(back.param, host(flat.param))
    assert flat.param.__cuda_array_interface__ == {
        "shape": (8,),
        "typestr": "<f8",
        "data": (flat.param.address, False),
        "strides": None,
        "stream": 1,
        "version": 3,
    }
    for wrong in ("gpu", "cuda:x", 3, "cuda:1"):
        with pytest.raises(ValueError, match="device"):
            fastadam.pack([np.ones(2)], device=wrong)  # type: ignore[arg-type]
    halves = np.linspace(0, 1, 3).astype(np.float16)
    assert_same_bits(fastadam.pack([cuda.to_device(halves)], device="cpu").params[0], halves)


def test_backends_take_what_they_can_step() -> None:
    with pytest.raises(ValueError, match="is a NumPy array, but the backend 'cuda'"):
        fastadam.Adam([np.ones(2)], backend="cuda")
    with pytest.raises(ValueError, match="is on a CUDA device, but the backend 'numpy'"):
        fastadam.Adam([cuda.to_device(np.ones(2))], backend="numpy")
    optimizer = fastadam.Adam([np.ones(2)], backend="numpy")
    with pytest.raises(ValueError, match="is on a CUDA device, but the backend 'numpy'"):
        optimizer.add_param_group({"params": cuda.to_device(np.ones(2))})
    assert len(optimizer.param_groups) == 1
    assert fastadam.Adam([cuda.to_device(np.ones(2))], backend="cuda").backend == "cuda"


GOOD = np.ones((2, 3), np.float32)
BAD_GRADIENTS: dict[str, tuple[Any, str]] = {
    "on the host": (GOOD, "not on a CUDA device"),
    "of another shape": (cuda.to_device(np.ones((3, 2), np.float32)), r"has shape \(3, 2\)"),
    "of another dtype": (cuda.to_device(np.ones((2, 3))), "has dtype float64"),
    "not contiguous": (cuda.to_device(np.ones((3, 2), np.float32)).T, "not C-contiguous"),
    "no array": ("x", "is a str and not on a CUDA device"),
}


@pytest.mark.parametrize(("grad", "match"), BAD_GRADIENTS.values(), ids=BAD_GRADIENTS)
def test_a_wrong_gradient_changes_nothing(grad: Any, match: str) -> None:
    optimizer, step = make("in place", [np.ones(5, np.float32), GOOD])
    step([np.ones(5, np.float32), GOOD])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises((TypeError, ValueError), match=match):
        optimizer.step([cuda.to_device(np.ones(5, np.float32)), grad])
    after = optimizer.state_dict()
    for key, entry in before["state"].items():
        for name, value in entry.items():
            assert_same_bits(np.asarray(after["state"][key][name]), np.asarray(value))
    step([np.ones(5, np.float32), GOOD])
    assert optimizer.state[1]["step"] == 2


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match="has dtype int64"):
        fastadam.Adam([cuda.to_device(np.arange(3))])
    with pytest.raises(ValueError, match="not C-contiguous"):
        fastadam.Adam([cuda.to_device(np.ones((2, 3))).T])
    frozen = cuda.to_device(np.ones(3))
    frozen._ary.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        fastadam.Parameter(frozen)
    array = cuda.to_device(np.ones(4))
    with pytest.raises(ValueError, match="share memory"):
        fastadam.Adam([array, array.reshape((2, 2))])
    optimizer = fastadam.Adam(array)
    with pytest.raises(ValueError, match="shares memory with parameter 0"):
        optimizer.step(array)


class Foreign:
    """An array of some other library."""

    def __init__(self, array: np.ndarray, **more: Any) -> None:
        self.array, self.more = array, more

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        given = self.array.__array_interface__
        return {"version": 3, **{key: given[key] for key in ("shape", "typestr", "data", "strides")}, **self.more}


def test_arrays_of_other_libraries() -> None:
    ours = Foreign(np.ones(9, np.float32), stream=7)
    theirs = np.ones(9, np.float32)
    optimizer, expected = fastadam.Adam([ours]), fastadam.Adam([theirs])
    for seed in (1, 2):
        (grad,) = random_arrays([(9,)], np.float32, seed)
        optimizer.step([Foreign(grad, stream=1)])
        expected.step([grad])
    assert_same_bits(ours.array, theirs)
    with pytest.raises(TypeError, match="masked"):
        optimizer.step([Foreign(theirs, mask=ours)])
    with pytest.raises(TypeError, match="masked"):
        fastadam.Adam([Foreign(theirs, mask=ours)])
    with pytest.raises(TypeError, match="has dtype >f4"):
        fastadam.Adam([Foreign(theirs.astype(">f4"))])


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("other", [np.ones(9, np.float32), np.ones((3, 3), np.float32)])
def test_a_parameter_whose_memory_is_exchanged_is_noticed(other: np.ndarray, steps: int, tmp_path: Any) -> None:
    param, grad = Foreign(np.ones(9, np.float32)), Foreign(np.ones(9, np.float32))
    optimizer = fastadam.Adam([param])
    for _ in range(steps):
        optimizer.step([grad])
    before, param.array = param.array, other  # and is kept, so that no other array takes its place
    optimizer.param_groups[0]["amsgrad"] = True  # the plan is made anew, too
    with pytest.raises(ValueError, match="parameter 0 was exchanged"):
        optimizer.step([grad])
    assert [entry["step"] for entry in optimizer.state.values()] == [1] * steps
    assert steps or (before == 1).all()
    assert (other == 1).all()
    pytest.importorskip("safetensors")
    with pytest.raises(ValueError, match="parameter 0 was exchanged"):
        fastadam.save(tmp_path / "x", optimizer)


def test_a_gradient_that_moves_is_taken_up() -> None:
    grad = Foreign(np.ones(9, np.float32))
    (param,) = to_device([np.ones(9, np.float32)])
    optimizer, expected = fastadam.Adam([param]), fastadam.Adam([np.ones(9, np.float32)])
    for seed in (1, 2, 3):
        optimizer.step([grad])
        expected.step([grad.array])
        (grad.array,) = random_arrays([(9,)], np.float32, seed)
    assert_same(optimizer, expected)


@pytest.mark.parametrize("beside", [[], [np.ones(2)]], ids=["alone", "beside an array of the host"])
@pytest.mark.parametrize(("param", "grad"), [(7, 1), (1, 7)])
def test_streams_are_waited_for_on_the_device(
    param: int, grad: int, beside: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    gpu = type(cuda_arrays._gpu(0))
    launcher = launches.SimulatedLauncher
    monkeypatch.setattr(gpu, "event", lambda self: object())
    monkeypatch.setattr(
        gpu, "record_call", lambda self, event, stream: functools.partial(calls.append, ("record", event, stream))
    )
    monkeypatch.setattr(
        gpu, "stall_call", lambda self, stream, event: functools.partial(calls.append, ("stall", event, stream))
    )
    monkeypatch.setattr(
        launcher, "launch", lambda *arguments: (calls.append(("launch", None, arguments[3])), (0,))[1]
    )
    params = [Foreign(np.ones(3, np.float32), stream=param), *(array.copy() for array in beside)]
    fastadam.Adam(params).step([Foreign(np.ones(3, np.float32), stream=grad), *beside])
    assert [(name, stream) for name, _, stream in calls] == [
        ("record", 7),
        ("stall", 1),
        ("launch", 1),
        ("record", 1),
        ("stall", 7),
    ]
    assert calls[0][1] is calls[1][1]
    assert calls[3][1] is calls[4][1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_of_memory_changes_nothing(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = random_arrays(SHAPES, np.float64, 0)
    grads = random_arrays(SHAPES, np.float64, 1)
    (ours, step), (theirs, their_step) = (make(layout, arrays) for _ in range(2))
    for each in (step, their_step):
        each(grads)

    def none_left(*_: Any) -> None:
        raise MemoryError("the memory of CUDA device 0 is exhausted")

    ours.param_groups[0]["amsgrad"] = True
    with monkeypatch.context() as patch:
        patch.setattr(type(cuda_arrays._gpu(0)), "reserve", none_left)
        with pytest.raises(MemoryError):
            step(grads)
        with pytest.raises(MemoryError):
            fastadam.pack(arrays, device="cuda")
    ours.param_groups[0]["amsgrad"] = False
    assert_same(ours, theirs)
    for optimizer in (ours, theirs):
        optimizer.param_groups[0]["amsgrad"] = True
    for each in (step, their_step):
        each(grads)
    assert_same(ours, theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", [{"ema_decay": 0.5, "amsgrad": True}, {"state_dtype": "int8"}])
def test_rows_are_moved_as_on_the_host(layout: str, options: dict[str, Any]) -> None:
    arrays = random_arrays(SHAPES, np.float32, 0)
    ours, _ = make(layout, arrays, **options)
    theirs = fastadam.Adam([array.copy() for array in arrays], backend="numpy", **options)
    for seed, rows in enumerate([{"keep": [2, 0]}, {"grow": 3}, {"keep": [1, 1], "grow": [0, 4]}]):
        grads = [np.ones_like(host(each.array)) * (seed + i) for i, each in enumerate(ours._groups.members)]
        theirs.step(grads)
        ours.step(to_device(grads))
        old = ours._groups.members[0].given
        found = ours.resize(0, **rows)
        theirs.resize(0, **rows)
        assert_same(ours, theirs)
        now = found if layout != "packed" else found.params[0]
        assert now is ours._groups.members[0].given
        if layout != "parameters":
            with pytest.raises(KeyError, match="was resized"):
                ours.state[old]
    ours.reset(0)
    theirs.reset(0)
    assert_same(ours, theirs)
    for optimizer, given in ((ours, cuda.to_device(np.ones(3))), (theirs, np.ones(3))):
        optimizer.add_param_group({"params": [given]})
        optimizer.remove_param_group(0)
        assert len(optimizer.state_dict()["param_groups"]) == 1
    assert_same(ours, theirs)
    assert ours.backend == "cuda"


@pytest.mark.parametrize("lazy", ["skip", "exact"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema_decay": 0.5, "amsgrad": True},
        {"max_grad_norm": 0.1, "weight_decay": 0.1},
        {"state_dtype": "bfloat16"},
    ],
    ids=repr,
)
def test_rows_are_stepped_as_on_the_host(lazy: Any, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    tables = [rng.standard_normal((9, 3)).astype(np.float32), rng.standard_normal(4).astype(np.float32)]
    beside = np.ones(5)  # on the host in both
    ours = fastadam.Adam([*to_device(tables), beside.copy()], lr=0.1, lazy=lazy, **options)
    theirs = fastadam.Adam([*(table.copy() for table in tables), beside], lr=0.1, lazy=lazy, **options)
    for step, indices in enumerate(([5, 1], [1, 1, 7, 1], [], [0, 8, 3], [2, 3, 4])):
        grads = rng.standard_normal((len(indices), 3)).astype(np.float32)
        whole = rng.standard_normal((9, 3)).astype(np.float32)
        other = rng.standard_normal(4).astype(np.float32)
        if step == 3:
            mask = np.zeros(9, bool)
            mask[indices] = True
            theirs.step([whole, other, np.ones(5)], mask={0: mask})
            ours.step([*to_device([whole, other]), np.ones(5)], mask={0: mask})
        else:
            theirs.step([fastadam.Rows(indices, grads), other, np.ones(5)])
            ours.step(
                [fastadam.Rows(np.array(indices, int), to_device([grads])[0]), to_device([other])[0], np.ones(5)]
            )
        assert ours.grad_norm == theirs.grad_norm
    for each in (ours, theirs):
        each.catch_up()
    assert_same(ours, theirs)
    with pytest.raises(TypeError, match="the rows of parameter 0"):
        ours.step([fastadam.Rows([1], np.ones((1, 3), np.float32)), None, None])
