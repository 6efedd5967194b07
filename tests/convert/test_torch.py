"""Training begun in torch goes on here, and back, and agrees with torch going on by itself."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastadam
from fastadam import convert
from tests.support.bits import assert_same_bits
from tests.support.convert_cases import SHAPES, STEPS, assert_near, assert_refuses, gradient, params, train

torch = pytest.importorskip("torch")
fastadam_torch = pytest.importorskip("fastadam.torch")

OPTIONS = [
    {},
    {"amsgrad": True, "weight_decay": 0.1},
    {"maximize": True, "betas": (0.5, 0.9), "eps": 1e-3},
    {"amsgrad": True, "maximize": True},
]


def make(
    cls: Any, arrays: dict[str, np.ndarray], named: bool = False, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Return one of torch's optimizers over copies of arrays, and its tensors."""
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    return cls(tensors.items() if named else tensors.values(), lr=0.05, **options), tensors


def go_on(optimizer: Any, tensors: dict[str, Any], first: int) -> None:
    for step in range(first, first + STEPS):
        for tensor in tensors.values():
            tensor.grad = torch.from_numpy(gradient(tensor.detach().numpy(), step))
        optimizer.step()


def values(tensors: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
@pytest.mark.parametrize("source", ["object", "state dict", "file", "fastadam.torch"])
def test_training_goes_on_here_and_back(
    tmp_path: Path, dtype: str, options: dict[str, Any], kind: str, source: str
) -> None:
    home = fastadam_torch if source == "fastadam.torch" else torch.optim
    theirs, tensors = make(getattr(home, kind), params(dtype), **options)
    go_on(theirs, tensors, 0)
    given = theirs.state_dict() if source in ("state dict", "file") else theirs
    if source == "file":
        torch.save(given, tmp_path / "adam.pt")
        given = tmp_path / "adam.pt"
    arrays = values(tensors)
    ours = fastadam.Adam(arrays.values())
    convert.from_torch(given, ours)
    assert ours.param_groups[0]["decoupled_weight_decay"] == (kind == "AdamW")
    train(ours, arrays, STEPS)
    go_on(theirs, tensors, STEPS)
    assert_near(arrays, values(tensors))
    assert [entry["step"] for entry in ours.state.values()] == [2 * STEPS] * len(SHAPES)

    back, tensors = make(getattr(torch.optim, kind), arrays)
    back.load_state_dict(convert.to_torch(ours, back))
    assert {key: back.param_groups[0][key] for key in ("lr", *options)} == {"lr": 0.05, **options}
    train(ours, arrays, 2 * STEPS)
    go_on(back, tensors, 2 * STEPS)
    assert_near(arrays, values(tensors))


def test_every_bit_of_the_state_arrives_and_returns() -> None:
    theirs, tensors = make(torch.optim.Adam, params("float32"), amsgrad=True)
    go_on(theirs, tensors, 0)
    arrays = values(tensors)
    ours = fastadam.Adam(fastadam.pack(arrays))
    convert.from_torch(theirs, ours)
    returned = convert.to_torch(ours)["state"]
    for i, entry in theirs.state_dict()["state"].items():
        assert set(returned[i]) == set(entry)
        for name, value in entry.items():
            assert returned[i][name].dtype == value.dtype
            assert_same_bits(returned[i][name].numpy(), value.numpy())
            if name != "step":
                assert_same_bits(ours.state[i][name], value.numpy())
    assert not any(np.shares_memory(returned[0]["exp_avg"].numpy(), ours.state[0][name]) for name in ("exp_avg",))


def test_names_are_matched_in_any_order_both_ways() -> None:
    theirs, tensors = make(torch.optim.Adam, params("float64"), named=True)
    go_on(theirs, tensors, 0)
    arrays = dict(reversed(values(tensors).items()))
    ours = fastadam.Adam(arrays)
    convert.from_torch(theirs.state_dict(), ours)
    back, again = make(torch.optim.Adam, values(tensors), named=True)
    back.load_state_dict(convert.to_torch(ours, back))
    assert back.param_groups[0]["param_names"] == list(tensors)
    for name in SHAPES:
        for key in ("exp_avg", "exp_avg_sq"):
            assert_same_bits(ours.state[name][key], theirs.state[tensors[name]][key].numpy())
            assert_same_bits(ours.state[name][key], back.state[again[name]][key].numpy())


def test_groups_and_parameters_that_were_never_stepped() -> None:
    tensors = [
        torch.ones(2, requires_grad=True),
        torch.ones(3, requires_grad=True),
        torch.ones(4, requires_grad=True),
    ]
    theirs = torch.optim.AdamW([{"params": tensors[:2], "lr": 0.5}, {"params": tensors[2:], "amsgrad": True}])
    tensors[1].grad, tensors[2].grad = torch.ones(3), torch.ones(4)
    theirs.step()
    tensors[1].grad = None
    theirs.step()
    arrays = [tensor.detach().numpy() for tensor in tensors]
    ours = fastadam.Adam([{"params": arrays[:2]}, {"params": arrays[2:]}])
    convert.from_torch(theirs, ours)
    assert {i: int(entry["step"]) for i, entry in ours.state.items()} == {1: 1, 2: 2}
    assert [(group["lr"], group["amsgrad"]) for group in ours.param_groups] == [(0.5, False), (1e-3, True)]
    back = torch.optim.AdamW([{"params": tensors[:2]}, {"params": tensors[2:]}])
    back.load_state_dict(convert.to_torch(ours, back))
    assert [set(back.state[tensor]) for tensor in tensors] == [set(theirs.state[tensor]) for tensor in tensors]
    with pytest.raises(
        ValueError, match=r"source has 2 parameter groups, the optimizer has 1; make it with as many"
    ):
        convert.from_torch(theirs, fastadam.Adam(arrays))
    with pytest.raises(ValueError, match=r"opt has 2 parameter groups, optimizer has 1; make it with as many"):
        convert.to_torch(ours, torch.optim.Adam(tensors))


@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
def test_narrow_states_are_widened_without_loss(narrow: str) -> None:
    tensor = torch.linspace(-1, 1, 9).to(getattr(torch, narrow)).requires_grad_()
    theirs = torch.optim.Adam([tensor])
    tensor.grad = torch.linspace(-2, 1, 9).to(tensor.dtype)
    theirs.step()
    ours = fastadam.Adam([np.zeros(9, np.float32)])
    convert.from_torch(theirs, ours)
    for name in ("exp_avg", "exp_avg_sq"):
        assert_same_bits(ours.state[0][name], theirs.state[tensor][name].float().numpy())
    with pytest.raises(ValueError, match=rf"parameter 0 \({narrow} \(9,\) in the target, float32 \(9,\) here\)"):
        convert.to_torch(ours, theirs)
    theirs.load_state_dict(convert.to_torch(ours))  # torch narrows what it is told to
    assert theirs.state[tensor]["exp_avg"].dtype == tensor.dtype


def test_what_schedulers_leave_in_groups_is_no_hindrance() -> None:
    theirs, tensors = make(torch.optim.Adam, params("float64"))
    schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.1, total_steps=20)
    torch.optim.swa_utils.SWALR(theirs, swa_lr=0.05)
    go_on(theirs, tensors, 0)
    schedule.step()
    arrays = values(tensors)
    ours = fastadam.Adam(arrays.values())
    convert.from_torch(theirs, ours)
    assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(convert.to_torch(ours, theirs))
    assert "max_lr" in theirs.param_groups[0]


def test_numbers_as_tensors_and_options_of_implementation() -> None:
    tensor = torch.ones(3, requires_grad=True)
    betas = (torch.tensor(0.5), torch.tensor(0.75))
    theirs = torch.optim.Adam([tensor], lr=torch.tensor(0.25), betas=betas, foreach=False)
    tensor.grad = torch.ones(3)
    theirs.step()
    ours = fastadam.Adam([np.ones(3, np.float32)])
    convert.from_torch(theirs, ours)
    assert (ours.param_groups[0]["lr"], ours.param_groups[0]["betas"]) == (0.25, (0.5, 0.75))
    saved = convert.to_torch(ours, theirs)["param_groups"][0]
    assert (saved["lr"], saved["foreach"]) == (0.25, False)


def test_counters_that_float32_cannot_count_on() -> None:
    ours = fastadam.Adam([np.ones(2), np.ones(2)])
    saved = ours.state_dict()
    moments = {"exp_avg": np.ones(2), "exp_avg_sq": np.ones(2)}
    saved["state"] = {0: {"step": 2**24 - 1, **moments}, 1: {"step": 2**24 + 1, **moments}}
    ours.load_state_dict(saved)
    steps = [entry["step"] for entry in convert.to_torch(ours)["state"].values()]
    assert [(step.dtype, step.item()) for step in steps] == [
        (torch.float32, 2**24 - 1),
        (torch.float64, 2**24 + 1),
    ]
    tensors = [torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in steps]
    theirs = torch.optim.Adam(tensors)
    theirs.load_state_dict(convert.to_torch(ours, theirs))
    for tensor in tensors:
        tensor.grad = torch.ones(2, dtype=torch.float64)
    theirs.step()
    convert.from_torch(theirs, ours)
    assert [int(entry["step"]) for entry in ours.state.values()] == [2**24, 2**24 + 2]


def saved_state(**group: Any) -> dict[str, Any]:
    """Return a state dict of torch's for one parameter of three numbers."""
    theirs, tensors = make(torch.optim.Adam, {"w": np.ones(3, np.float32)})
    tensors["w"].grad = torch.ones(3)
    theirs.step()
    saved = theirs.state_dict()
    saved["param_groups"][0].update(group)
    return dict(saved)


def edited(**entry: Any) -> dict[str, Any]:
    saved = saved_state()
    saved["state"][0].update(entry)
    return saved


def without(kind: str) -> dict[str, Any]:
    saved = saved_state()
    del saved["state"][0][kind]
    return saved


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "a list": ([1], TypeError, "must hold a state dict of torch's Adam, got list"),
    "other keys": ({"model": 1}, ValueError, r"has the keys \['model'\].*pass that: torch.load"),
    "another optimizer": (
        torch.optim.SGD([torch.ones(3)], lr=0.1),
        TypeError,
        "source must be torch's Adam or AdamW, or derived from one, got SGD",
    ),
    "SGD's state": (
        torch.optim.SGD([torch.ones(3)], lr=0.1).state_dict(),
        ValueError,
        "there is no 'betas', so it is not the state of torch's Adam",
    ),
    "RAdam's state": (torch.optim.RAdam([torch.ones(3)]).state_dict(), ValueError, "there is no 'amsgrad'"),
    "NAdam's option": (
        saved_state(momentum_decay=0.1),
        ValueError,
        "'momentum_decay' is none of Adam's; .* remove it",
    ),
    "an option out of range": (saved_state(lr=-1.0), ValueError, "lr must be finite and at least 0, got -1.0"),
    "a missing moment": (without("exp_avg_sq"), ValueError, "parameter 0: its state has no 'exp_avg_sq'"),
    "a missing counter": (without("step"), ValueError, "parameter 0: its state has no 'step'"),
    "an unknown moment": (edited(mu_product=torch.ones(())), ValueError, "unknown key 'mu_product', so it is not"),
    "a counter of NaN": (edited(step=torch.tensor(float("nan"))), ValueError, "step must be a whole number"),
    "an infinite counter": (edited(step=torch.tensor(float("inf"))), ValueError, "step must be a whole number"),
    "half a step": (
        edited(step=torch.tensor(1.5)),
        ValueError,
        "step must be a whole number of at least 0, got 1.5",
    ),
    "another shape": (
        edited(exp_avg=torch.ones(4)),
        ValueError,
        r"\(float32 \(4,\) in the source, float32 \(3,\) here",
    ),
    "another shape of the second moment": (
        edited(exp_avg_sq=torch.ones(3, 1)),
        ValueError,
        r"of another shape or dtype: parameter 'w' \(float32 \(3, 1\) in the source.*; make opt over parameters",
    ),
    "a wider dtype": (edited(exp_avg=torch.ones(3).double()), ValueError, r"\(float64 \(3,\) in the source"),
    "integers": (edited(exp_avg=torch.ones(3).int()), ValueError, r"\(int32 \(3,\) in the source"),
    "8 bits": (
        edited(exp_avg=torch.ones(3).to(torch.float8_e5m2)),
        ValueError,
        r"\(float8_e5m2 \(3,\) in the source",
    ),
    "a sparse moment": (
        edited(exp_avg=torch.ones(3).to_sparse()),
        TypeError,
        "exp_avg is a Tensor that is no plain",
    ),
    "no data": (edited(exp_avg=torch.ones(3, device="meta")), TypeError, "no plain dense tensor; convert"),
    "amsgrad without its moment": (
        saved_state(amsgrad=True),
        ValueError,
        "amsgrad is on, but entry 0 has no max_",
    ),
    "too few parameters": ({**saved_state(params=[]), "state": {}}, ValueError, "missing: parameter 'w'"),
    "too many parameters": (saved_state(params=[0, 1]), ValueError, "unexpected: parameter 1"),
    "state of no parameter": (
        saved_state(params=[1]),
        ValueError,
        r"has state for \[0\], which no parameter group",
    ),
    "the same entry twice": (saved_state(params=[0, 0]), ValueError, "the entry 0 appears twice"),
    "names for others": (saved_state(param_names=["a", "b"]), ValueError, "must be a list of 1 names"),
    "params that are no numbers": (
        saved_state(params=["w"]),
        TypeError,
        "must be a list of the numbers of entries",
    ),
    "groups that are none": (
        {"state": {}, "param_groups": [1]},
        ValueError,
        "must be a mapping with a list 'params'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_changes_nothing(case: str) -> None:
    source, error, match = REFUSED[case]
    assert_refuses(lambda ours: convert.from_torch(source, ours), "w", error, match)


def test_memory_that_was_freed_is_not_read() -> None:
    saved = edited(exp_avg_sq=torch.ones(3))
    saved["state"][0]["exp_avg_sq"].untyped_storage().resize_(0)
    ours = fastadam.Adam([np.ones(3, np.float32)])
    with pytest.raises(RuntimeError, match="exp_avg_sq has a storage that was freed or shrunk"):
        convert.from_torch(saved, ours)
    assert len(ours.state) == 0


def test_names_that_differ_are_said() -> None:
    theirs, _ = make(torch.optim.Adam, params("float32"), named=True)
    arrays = params("float32")
    arrays["tail"] = arrays.pop("head")
    ours = fastadam.Adam(arrays)
    with pytest.raises(ValueError, match=r"missing: 'tail'; unexpected: parameter 'head'"):
        convert.from_torch(theirs, ours)
    with pytest.raises(ValueError, match=r"to_torch: .*missing: 'tail'; unexpected: parameter 'head'"):
        convert.to_torch(ours, theirs)


def test_files_are_read_without_running_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    ours = fastadam.Adam([np.ones(3, np.float32)])
    path = tmp_path / "bomb.pt"
    torch.save({"state": Bomb(), "param_groups": []}, path)
    with pytest.raises(
        ValueError, match=r"cannot be read as one that torch.save has written: Weights only load failed"
    ):
        convert.from_torch(path, ours)
    path.write_bytes(pickle.dumps({"state": {}}))
    with pytest.raises(ValueError, match=r"cannot be read"):
        convert.from_torch(str(path), ours)
    with pytest.raises(FileNotFoundError):
        convert.from_torch(tmp_path / "none.pt", ours)
    assert not (tmp_path / "exploded").exists()
    torch.save({"optimizer": saved_state()}, path)
    with pytest.raises(ValueError, match=r"bomb.pt' has the keys \['optimizer'\], not 'state'"):
        convert.from_torch(path, ours)
    convert.from_torch(torch.load(path, weights_only=True)["optimizer"], ours)
    torch.save(saved_state(), path, _use_new_zipfile_serialization=False)  # the old format cannot be mapped
    ours = fastadam.Adam([np.ones(3, np.float32)])
    convert.from_torch(path, ours)
    assert ours.state[0]["step"] == 1


def test_to_torch_refuses_what_torch_does_not_have() -> None:
    w = np.ones(3, np.float32)
    with pytest.raises(TypeError, match=r"lr of param_groups\[0\] is a function.*; set it to a number"):
        convert.to_torch(fastadam.Adam([w], lr=lambda step: 0.1))
    ours = fastadam.Adam([w], weight_decay=0.1)
    tensor = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"torch's AdamW always decouples it; take torch.optim.Adam"):
        convert.to_torch(ours, torch.optim.AdamW([tensor]))
    with pytest.raises(TypeError, match=r"optimizer must be torch's Adam or AdamW.* got SGD"):
        convert.to_torch(ours, torch.optim.SGD([tensor]))
    with pytest.raises(ValueError, match=r"\(float32 \(4,\) in the target, float32 \(3,\) here\)"):
        convert.to_torch(ours, torch.optim.Adam([torch.ones(4, requires_grad=True)]))
    for convert_one in (convert.to_torch, lambda opt: convert.from_torch({}, opt)):
        with pytest.raises(TypeError, match=r"opt must be a fastadam.Adam, got Adam"):
            convert_one(torch.optim.Adam([tensor]))
