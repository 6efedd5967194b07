"""State dicts of fastadam.torch and of torch.optim, exchanged in mid-training; processes that share memory."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fastadam.torch  # noqa: E402
from tests.support.torch_cases import (  # noqa: E402
    DTYPES,
    FEW,
    MOMENTS,
    NAMES,
    SETTINGS,
    SHAPES,
    Parameter,
    assert_close,
    assert_same_bits,
    assert_same_snapshot,
    assert_state_close,
    draw,
    error_of,
    give_grads,
    members,
    options_for,
    params,
    snapshot,
)

FORMS: dict[str, dict[str, Any]] = {
    "default": {},
    "foreach": {"foreach": True},
    "single": {"foreach": False},
    "fused": {"fused": True},
}
# What torch's fused kernel takes.
FUSABLE = [(7,), (3, 4), (2, 3, 4, 5)]


def forms_for(setting: str) -> list[str]:
    tensors = any(
        isinstance(value, torch.Tensor | tuple) for key, value in SETTINGS[setting].items() if key != "eps"
    )
    return ["default", "single"] if tensors and "tensor" in setting else list(FORMS)


def run(optimizer: Any, first: int, n: int, skip: Callable[[int, int], bool] = lambda step, i: False) -> None:
    for step in range(first, first + n):
        give_grads(optimizer, step, skip)
        optimizer.step()


def compare(ours: Any, theirs: Any) -> None:
    for i, (a, b) in enumerate(zip(members(ours), members(theirs), strict=True)):
        assert_close(a, b, f"parameter {i}")
        assert (a in ours.state) == (b in theirs.state)
        if b in theirs.state:
            assert_state_close(ours.state[a], theirs.state[b], f"parameter {i}")


def some_none(step: int, i: int) -> bool:
    return i == 1 and step < 7 and step % 2 == 0


@pytest.mark.parametrize("direction", ["from torch", "to torch"])
@pytest.mark.parametrize(
    ("setting", "form"), [(setting, form) for setting in SETTINGS for form in forms_for(setting)]
)
@pytest.mark.parametrize("name", NAMES)
def test_exchange(name: str, setting: str, form: str, direction: str) -> None:
    """Half of the way with the one, half with the other, against all of it with torch's."""
    options = options_for(name, setting)
    ours, theirs = getattr(fastadam.torch, name), getattr(torch.optim, name)

    def torchs(given: Any, **more: Any) -> Any:
        return theirs(given, **copy.deepcopy(options), **FORMS[form], **more)

    whole = torchs(params(*FUSABLE))
    run(whole, 0, 10, some_none)
    if direction == "from torch":
        first, second = torchs(params(*FUSABLE)), ours(params(*FUSABLE, seed=1))
    else:
        first, second = ours(params(*FUSABLE), **copy.deepcopy(options)), torchs(params(*FUSABLE, seed=1))
    run(first, 0, 5, some_none)
    for a, b in zip(members(second), members(first), strict=True):
        a.data.copy_(b.detach())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run(second, 5, 5, some_none)
    compare(second, whole)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16], ids=str)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_state_dicts_have_torchs_form(name: str, dtype: Any, amsgrad: bool) -> None:
    """Keys in torch's order, dtypes, shapes, strides and devices."""
    saved = []
    for module in (fastadam.torch, torch.optim):
        given = [*params(*SHAPES, dtype=dtype), Parameter(draw((4, 3), dtype).t())]
        given.append(Parameter(draw((2, 3, 4, 5), dtype).contiguous(memory_format=torch.channels_last)))
        given.append(Parameter(draw((3, 8), dtype)[:, ::2]))
        optimizer = getattr(module, name)(
            [{"params": given[:3]}, {"params": given[3:], "lr": 0.5}], amsgrad=amsgrad
        )
        run(optimizer, 0, 2, lambda step, i: i == 3)
        saved.append(optimizer.state_dict())
    ours, theirs = saved
    assert list(ours) == list(theirs)
    assert ours["param_groups"] == theirs["param_groups"]
    assert [list(group) for group in ours["param_groups"]] == [list(group) for group in theirs["param_groups"]]
    assert list(ours["state"]) == list(theirs["state"])
    for i, expected in theirs["state"].items():
        actual = ours["state"][i]
        assert list(actual) == list(expected)
        for key, value in expected.items():
            found = actual[key]
            assert type(found) is type(value)
            assert (found.dtype, found.shape, found.device) == (value.dtype, value.shape, value.device), (i, key)
            assert found.stride() == value.stride(), (i, key)
            assert (found.requires_grad, found.is_leaf) == (False, True)


def test_state_dicts_hold_the_live_tensors() -> None:
    optimizer = fastadam.torch.Adam(params(*SHAPES), amsgrad=True)
    run(optimizer, 0, 2)
    saved = optimizer.state_dict()
    for i, param in enumerate(members(optimizer)):
        for key, value in optimizer.state[param].items():
            assert saved["state"][i][key] is value
    run(optimizer, 2, 1)
    assert float(saved["state"][0]["step"]) == 3


def test_the_state_is_torchs_own() -> None:
    """Of plain tensors, one for each of a parameter's entries, that outlive the optimizer."""
    optimizer = fastadam.torch.Adam(params(*SHAPES), amsgrad=True)
    run(optimizer, 0, 2)
    expected = torch.optim.Adam(params(*SHAPES), amsgrad=True)
    run(expected, 0, 2)
    assert type(optimizer.state) is type(expected.state)
    state = dict(optimizer.state)
    del optimizer
    for entry in state.values():
        for value in entry.values():
            assert type(value) is torch.Tensor
            value.add_(1)


OLD: dict[str, Callable[[dict[str, Any]], object]] = {
    "steps are ints": lambda saved: [entry.update(step=int(entry["step"])) for entry in saved["state"].values()],
    "steps are floats": lambda saved: [
        entry.update(step=float(entry["step"])) for entry in saved["state"].values()
    ],
    "steps are int64": lambda saved: [
        entry.update(step=entry["step"].to(torch.int64)) for entry in saved["state"].values()
    ],
    "steps are float64": lambda saved: [
        entry.update(step=entry["step"].double()) for entry in saved["state"].values()
    ],
    "steps of one element": lambda saved: [
        entry.update(step=entry["step"].reshape(1)) for entry in saved["state"].values()
    ],
    "moments of another dtype": lambda saved: [
        entry.update({key: entry[key].double() for key in MOMENTS if key in entry})
        for entry in saved["state"].values()
    ],
    "moments of other strides": lambda saved: [
        entry.update(
            {key: entry[key].t().contiguous().t() for key in MOMENTS if key in entry and entry[key].dim() == 2}
        )
        for entry in saved["state"].values()
    ],
    "more in the state": lambda saved: saved["state"].update({"mine": 5}),
    "more in an entry": lambda saved: saved["state"][0].update(mine=torch.ones(2), other=[1, 2]),
    "more in a group": lambda saved: saved["param_groups"][0].update(initial_lr=0.1, swa_lr=0.2),
    "without the state of one": lambda saved: saved["state"].pop(1),
    "without any state": lambda saved: saved["state"].clear(),
    "keys in another order": lambda saved: saved.update(
        state={i: dict(reversed(entry.items())) for i, entry in reversed(saved["state"].items())}
    ),
    "other positions": lambda saved: (
        saved.update(state={i + 10: entry for i, entry in saved["state"].items()}),
        saved["param_groups"][0].update(params=[i + 10 for i in saved["param_groups"][0]["params"]]),
    ),
    "an lr that is a tensor": lambda saved: saved["param_groups"][0].update(lr=torch.tensor(0.3)),
    "betas in a list": lambda saved: saved["param_groups"][0].update(betas=[0.5, 0.6]),
    **{
        f"without {key}": lambda saved, key=key: saved["param_groups"][0].pop(key)
        for key in (
            "amsgrad",
            "maximize",
            "foreach",
            "capturable",
            "differentiable",
            "fused",
            "decoupled_weight_decay",
        )
    },
    "of the first version": lambda saved: (
        [
            saved["param_groups"][0].pop(key)
            for key in list(saved["param_groups"][0])
            if key not in ("params", "lr", "betas", "eps", "weight_decay", "amsgrad")
        ],
        [entry.update(step=int(entry["step"])) for entry in saved["state"].values()],
    ),
}


@pytest.mark.parametrize("setting", FEW)
@pytest.mark.parametrize("old", OLD)
@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_of_other_versions(name: str, old: str, setting: str) -> None:
    first = getattr(torch.optim, name)(params(*SHAPES), **options_for(name, setting))
    run(first, 0, 3)
    pair = []
    for module in (fastadam.torch, torch.optim):
        saved = copy.deepcopy(first.state_dict())
        OLD[old](saved)
        optimizer = getattr(module, name)([param.detach().clone() for param in members(first)])
        run(optimizer, 20, 1)  # so that there is a state to be replaced
        optimizer.load_state_dict(saved)
        run(optimizer, 3, 5, some_none)
        pair.append(optimizer)
    compare(*pair)
    assert pair[0].state_dict()["param_groups"] == pair[1].state_dict()["param_groups"]


def test_adamw_stays_decoupled_whatever_is_loaded() -> None:
    first = torch.optim.Adam(params(*SHAPES), weight_decay=0.1)
    run(first, 0, 2)
    pair = []
    for module in (fastadam.torch, torch.optim):
        optimizer = module.AdamW([param.detach().clone() for param in members(first)])
        optimizer.load_state_dict(copy.deepcopy(first.state_dict()))
        assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
        run(optimizer, 2, 3)
        pair.append(optimizer)
    compare(*pair)


UNFIT: dict[str, Callable[[dict[str, Any]], object]] = {
    "one group more": lambda saved: saved["param_groups"].append(dict(saved["param_groups"][0])),
    "one parameter less": lambda saved: saved["param_groups"][0]["params"].pop(),
    "no groups": lambda saved: saved.pop("param_groups"),
    "no state": lambda saved: saved.pop("state"),
}


@pytest.mark.parametrize("what", UNFIT)
def test_state_dicts_that_do_not_fit(what: str) -> None:
    errors = []
    for module in (fastadam.torch, torch.optim):
        optimizer = module.Adam(params(*SHAPES))
        run(optimizer, 0, 2)
        saved = copy.deepcopy(optimizer.state_dict())
        UNFIT[what](saved)
        before = snapshot(optimizer)
        errors.append(error_of(lambda optimizer=optimizer, saved=saved: optimizer.load_state_dict(saved)))
        assert errors[-1] is not None
        assert_same_snapshot(snapshot(optimizer), before)
        run(optimizer, 2, 1)
    assert [type(error) for error in errors[:1]] == [type(error) for error in errors[1:]]
    assert str(errors[0]) == str(errors[1])


SPOILED: dict[str, Callable[[dict[str, Any]], object]] = {
    "a moment of another shape": lambda saved: saved["state"][4].update(exp_avg=torch.ones(3, 5)),
    "a moment of the transposed shape": lambda saved: saved["state"][4].update(exp_avg=torch.ones(4, 3)),
    "a moment that is missing": lambda saved: saved["state"][4].pop("exp_avg_sq"),
    "a moment that is no tensor": lambda saved: saved["state"][4].update(exp_avg=1.0),
    "steps of two": lambda saved: saved["state"][4].update(step=torch.ones(2)),
    "an lr that is a str": lambda saved: saved["param_groups"][0].update(lr="-1.0"),
    "a beta beyond one": lambda saved: saved["param_groups"][0].update(betas=(0.9, 1.5)),
    "a step that is missing": lambda saved: saved["state"][4].pop("step"),
    "a step that is a str": lambda saved: saved["state"][4].update(step="two"),
    "no betas": lambda saved: saved["param_groups"][0].pop("betas"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_spoiled_state_dicts_do_no_harm(what: str) -> None:
    """They are refused when loaded or, at the latest, by the next step, before it writes anything."""
    optimizer = fastadam.torch.Adam(params(*SHAPES))
    run(optimizer, 0, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    SPOILED[what](saved)
    give_grads(optimizer, 3)
    error = error_of(lambda: optimizer.load_state_dict(saved))
    before = snapshot(optimizer)
    error = error or error_of(optimizer.step)
    assert isinstance(error, RuntimeError | ValueError | TypeError | KeyError), what
    assert_same_snapshot(snapshot(optimizer), before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_counter_of_a_loaded_state_goes_on(shape: tuple[int, ...]) -> None:
    first = torch.optim.Adam(params(shape))
    run(first, 0, 3)
    saved = copy.deepcopy(first.state_dict())
    saved["state"][0]["step"].fill_(100)
    optimizer = fastadam.torch.Adam(params(shape))
    optimizer.load_state_dict(saved)
    run(optimizer, 3, 2)
    assert float(optimizer.state[members(optimizer)[0]]["step"]) == 102


WORKER = """
    import sys
    import torch
    import torch.multiprocessing as mp
    import fastadam.torch

    def work(param, optimizer, steps):
        if optimizer is None:
            optimizer = fastadam.torch.Adam([param], lr=0.1)
        for _ in range(steps):
            param.grad = torch.ones(5) * 0.5
            optimizer.step()

    if __name__ == "__main__":
        context = mp.get_context(sys.argv[1])
        torch.manual_seed(0)
        param = torch.nn.Parameter(torch.zeros(5))
        optimizer = None
        if sys.argv[2] == "state":
            optimizer = fastadam.torch.Adam([param], lr=0.1)
            param.grad = torch.ones(5) * 0.5
            optimizer.step()
            for value in optimizer.state[param].values():
                value.share_memory_()
            param.grad = None
        param.share_memory_()
        expected = torch.nn.Parameter(torch.zeros(5))
        reference = torch.optim.Adam([expected], lr=0.1)
        for _ in range(4 if optimizer is not None else 3):
            expected.grad = torch.ones(5) * 0.5
            reference.step()
        process = context.Process(target=work, args=(param, optimizer, 3))
        process.start()
        process.join(100)
        assert process.exitcode == 0, process.exitcode
        torch.testing.assert_close(param, expected)
        if optimizer is not None:
            assert float(optimizer.state[param]["step"]) == 4
            param.grad = expected.grad = torch.ones(5)
            optimizer.step()
            reference.step()
            torch.testing.assert_close(param, expected)
        print("done")
"""


@pytest.mark.parametrize(
    ("start", "what"),
    [
        ("fork", "state"),
        pytest.param("fork", "parameter", marks=pytest.mark.slow),
        pytest.param("spawn", "state", marks=pytest.mark.slow),
        pytest.param("spawn", "parameter", marks=pytest.mark.slow),
    ],
)
def test_training_in_another_process(start: str, what: str, tmp_path: Any) -> None:
    """Parameters in shared memory, with an optimizer of its own in the process, or with a shared state."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), start, what],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"


def test_a_state_in_a_file(tmp_path: Any) -> None:
    """Written by the one, mapped into memory and read by the other."""
    first = fastadam.torch.Adam(params(*SHAPES), amsgrad=True)
    run(first, 0, 3)
    torch.save(
        {"params": [p.detach() for p in members(first)], "optimizer": first.state_dict()}, tmp_path / "a.pt"
    )
    loaded = torch.load(tmp_path / "a.pt", mmap=True, weights_only=True)
    second = fastadam.torch.Adam([Parameter(tensor) for tensor in loaded["params"]])
    second.load_state_dict(loaded["optimizer"])
    for optimizer in (first, second):
        run(optimizer, 3, 3)
    for a, b in zip(members(first), members(second), strict=True):
        assert_same_bits(a, b)
        for key, value in first.state[a].items():
            assert_same_bits(second.state[b][key], value, key)
