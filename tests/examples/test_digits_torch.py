"""Tests of the example that classifies digits with PyTorch."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
image = pytest.importorskip("matplotlib.image")

from tests.examples.loading import EXAMPLES, load  # noqa: E402
from tests.support.torch_cases import surroundings  # noqa: E402 - it needs torch

EXAMPLE = EXAMPLES / "digits_torch.py"
OPTIMIZERS = ["fastadam", "torch"]


@pytest.fixture(scope="module")
def digits() -> ModuleType:
    return load("digits_torch")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as the program does."""
    with surroundings(threads=1):
        yield


def assert_same_run(first: Any, second: Any) -> None:
    """Check that two runs have the same weights and history, to the last bit."""
    assert first[1] == second[1]
    states = first[0].state_dict(), second[0].state_dict()
    assert list(states[0]) == list(states[1])
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name


def test_the_split_is_random_and_even() -> None:
    data = load("_digits").load_data(0)
    assert len(data.train_images) == len(data.train_digits) == 1437
    assert len(data.test_images) == len(data.test_digits) == 360
    assert data.train_images.shape[1:] == data.test_images.shape[1:] == (8, 8)
    assert data.train_images.dtype == np.float32
    assert data.train_images.min() == 0
    assert data.train_images.max() == 1
    counts = np.bincount(data.test_digits)
    assert len(counts) == 10
    assert counts.min() >= 34
    assert counts.max() <= 38
    assert (data.test_images == load("_digits").load_data(0).test_images).all()
    assert not (data.test_images == load("_digits").load_data(1).test_images).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_only_weights_decay(digits: ModuleType, name: str) -> None:
    """Without gradients to speak of, a step shrinks the weights and leaves the biases alone."""
    model = digits.make_model()
    optimizer = digits.make_optimizer(model, name)
    assert isinstance(optimizer, torch.optim.Optimizer)
    weights, biases = optimizer.param_groups
    assert (weights["weight_decay"], biases["weight_decay"]) == (digits.WEIGHT_DECAY, 0)
    assert [param.ndim for param in weights["params"]] == [4, 4, 2]
    assert [param.ndim for param in biases["params"]] == [1, 1, 1]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for key, value in model.state_dict().items():
        factor = 1 if key.endswith("bias") else 1 - digits.LEARNING_RATE * digits.WEIGHT_DECAY
        torch.testing.assert_close(value, factor * before[key], rtol=1e-6, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_learns(digits: ModuleType, name: str) -> None:
    model, history = digits.train(0, optimizer=name)
    _, images, _, classes = map(torch.from_numpy, load("_digits").load_data(0))
    assert history["test accuracy"][-1] == digits.accuracy(model, images, classes) >= 0.97
    assert np.mean(history["loss"][-20:]) < 0.05 < 2 < history["loss"][0]
    # The learning rate rises to its highest value and then falls to nearly nothing.
    rates = np.array(history["lr"])
    top = rates.argmax()
    assert len(rates) == len(history["loss"]) == 20 * 23
    assert rates[top] == pytest.approx(digits.LEARNING_RATE)
    assert top == pytest.approx(digits.WARM_UP * len(rates), abs=1.5)
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[-1] < 1e-4 * digits.LEARNING_RATE


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_seed_gives_the_same_run(digits: ModuleType, name: str) -> None:
    first = digits.train(3, 2, name)
    assert_same_run(first, digits.train(3, 2, name))
    assert first[1]["loss"] != digits.train(4, 2, name)[1]["loss"]


class Interrupted(Exception):  # noqa: N818
    pass


# During the third epoch: either all its steps are lost, or it has just been saved.
@pytest.mark.parametrize(("function", "calls"), [("accuracy", 3), ("save_checkpoint", 3)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resuming_gives_the_run_that_was_not_interrupted(
    digits: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, function: str, calls: int
) -> None:
    whole = digits.train(1, 5, name)
    original = getattr(digits, function)
    count = 0

    def interrupted(*args: Any) -> Any:
        nonlocal count
        result = original(*args)
        count += 1
        if count == calls:
            raise Interrupted
        return result

    path = tmp_path / "checkpoint.pt"
    with monkeypatch.context() as context:
        context.setattr(digits, function, interrupted)
        with pytest.raises(Interrupted):
            digits.train(1, 5, name, path)
    torch.manual_seed(99)  # a new process would not be where the old one was
    assert_same_run(digits.train(1, 5, name, path), whole)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
    # What is finished stays as it is.
    content = path.read_bytes()
    assert_same_run(digits.train(1, 5, name, path), whole)
    assert path.read_bytes() == content


@pytest.mark.parametrize(("first", "then"), [("torch", "fastadam"), ("fastadam", "torch")])
def test_checkpoints_suit_either_optimizer(
    digits: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: str, then: str
) -> None:
    """A run begun with one optimizer and ended with the other is close to that of one alone."""
    half = tmp_path / "half.pt"
    original = digits.save_checkpoint

    def keep_the_second(path: Path, checkpoint: dict[str, Any]) -> None:
        original(path, checkpoint)
        if len(checkpoint["history"]["test accuracy"]) == 2:
            shutil.copy(path, half)

    monkeypatch.setattr(digits, "save_checkpoint", keep_the_second)
    alone = digits.train(2, 3, first, tmp_path / "whole.pt")
    both = digits.train(2, 3, then, half)
    losses = np.array([alone[1]["loss"], both[1]["loss"]])
    assert (losses[0, :46] == losses[1, :46]).all()
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-2)


def test_a_checkpoint_of_another_run_is_refused(
    digits: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    digits.train(0, 1, checkpoint=path)
    content = path.read_bytes()
    with pytest.raises(digits.CheckpointError, match="'seed': 0"):
        digits.train(1, 1, checkpoint=path)
    monkeypatch.setattr(sys, "argv", ["digits_torch.py", "--epochs", "2", "--checkpoint", str(path)])
    with pytest.raises(SystemExit) as error:
        digits.main()
    assert error.value.code == 2
    assert "not {'seed': 0, 'epochs': 2}" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_a_save_that_fails_leaves_the_checkpoint_before(
    digits: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pt"
    digits.save_checkpoint(path, {"epoch": 1})

    def fail(_: Any, file: Path) -> None:
        file.write_bytes(b"half of")
        raise OSError("no space left")

    with monkeypatch.context() as context:
        context.setattr(torch, "save", fail)
        with pytest.raises(OSError, match="no space left"):
            digits.save_checkpoint(path, {"epoch": 2})
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    digits.save_checkpoint(path, {"epoch": 2})
    assert torch.load(path, weights_only=True) == {"epoch": 2}


@pytest.mark.slow
def test_runs_as_a_program(tmp_path: Path) -> None:
    """The program reports its result, writes its plot and resumes."""
    command = [sys.executable, str(EXAMPLE), "--seed", "1", "--epochs", "3"]
    command += ["--plot", "digits.png", "--checkpoint", "checkpoint.pt"]
    accuracies = []
    for _ in range(2):  # at the second time, all is done already
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        line, _ = done.stdout.splitlines()
        match = re.fullmatch(r"Test accuracy: (0\.\d{4})", line)
        assert match is not None, line
        accuracies.append(float(match[1]))
        picture = image.imread(tmp_path / "digits.png")
        assert min(picture.shape[:2]) > 400
        assert picture.std() > 0.01  # not blank
        (tmp_path / "digits.png").unlink()
    assert accuracies[0] == accuracies[1] > 0.8
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]
