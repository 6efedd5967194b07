"""Tests of the PPO example in PyTorch, many of them against the one in NumPy."""

import itertools
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gymnasium")
pytest.importorskip("tqdm")
image = pytest.importorskip("matplotlib.image")

from tests.examples.loading import EXAMPLES, load  # noqa: E402
from tests.support.torch_cases import level, members, surroundings  # noqa: E402 - they need torch

TORCH_EXAMPLE = EXAMPLES / "ppo_cartpole_torch.py"
OPTIMIZERS = ["fastadam", "torch"]


@pytest.fixture(scope="module")
def ppo() -> ModuleType:
    return load("ppo_cartpole_torch")


@pytest.fixture(scope="module")
def numpy_ppo() -> ModuleType:
    return load("ppo_cartpole")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as the program does."""
    with surroundings(threads=1):
        yield


def make_batch(rng: np.random.Generator, n: int = 64) -> list[Any]:
    """Make observations, actions, old log-probabilities, advantages and targets, as float32."""
    floats = [-rng.random(n), rng.standard_normal(n), rng.standard_normal(n)]
    obs, *rest = (torch.tensor(array, dtype=torch.float32) for array in (rng.standard_normal((n, 4)), *floats))
    return [obs, torch.from_numpy(rng.integers(2, size=n)), *rest]


def test_the_constants_are_those_of_the_numpy_example(ppo: ModuleType, numpy_ppo: ModuleType) -> None:
    constants = {name: value for name, value in vars(numpy_ppo).items() if isinstance(value, int | float)}
    assert len(constants) == 7
    assert {name: getattr(ppo, name) for name in constants} == constants


def test_networks_start_from_the_weights_of_the_numpy_example(ppo: ModuleType, numpy_ppo: ModuleType) -> None:
    rng, numpy_rng = np.random.default_rng(5), np.random.default_rng(5)
    for sizes in ([4, 64, 64, 2], [4, 64, 64, 1]):
        params = list(ppo.mlp(sizes, rng).parameters())
        expected = numpy_ppo.MLP(sizes, numpy_rng).parameters()
        assert [param.dtype for param in params] == [torch.float32] * 6
        for param, array in zip(params, expected, strict=True):
            assert param.requires_grad
            np.testing.assert_array_equal(param.detach().numpy().T, array)


# With CLIP = 0.2, each sign of the advantage meets ratios below, inside and above the clip range,
# all of them away from the kinks at 0.8 and 1.2.
CASES = list(itertools.product((0.4, 0.7, 0.9, 1.1, 1.3, 2.0), (-1.5, -0.3, 0.6, 2.0)))


def test_gradients_match_those_written_by_hand(ppo: ModuleType, numpy_ppo: ModuleType) -> None:
    """With the same weights and data, in float64, the loss and all its gradients agree."""
    rng = np.random.default_rng(0)
    arrays, modules = [], []
    for sizes in ([4, 64, 64, 2], [4, 64, 64, 1]):
        network = numpy_ppo.MLP(sizes, rng, dtype=np.float64)
        module = ppo.mlp(sizes, rng).double()
        with torch.no_grad():
            for array, param in zip(network.parameters(), module.parameters(), strict=True):
                array += 0.1 * rng.standard_normal(array.shape)
                param.copy_(torch.from_numpy(array.T))
        arrays.append(network)
        modules.append(module)
    ratios, advantages = np.array(CASES).T
    obs = rng.standard_normal((len(CASES), 4))
    actions = rng.integers(2, size=len(CASES))
    log_probs = numpy_ppo.log_softmax(arrays[0].forward(obs))[np.arange(len(CASES)), actions]
    batch = obs, actions, log_probs - np.log(ratios), advantages, rng.standard_normal(len(CASES))

    expected_loss, *expected = numpy_ppo.ppo_loss_and_grads(*arrays, batch)
    loss = ppo.ppo_loss(*modules, [torch.from_numpy(array) for array in batch])
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    loss.backward()
    for module, grads in zip(modules, expected, strict=True):
        for param, grad in zip(module.parameters(), grads, strict=True):
            assert np.abs(grad).max() > 1e-3  # so that the comparison says something
            np.testing.assert_allclose(param.grad.numpy().T, grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_moves_both_networks(ppo: ModuleType, name: str) -> None:
    """One optimizer updates all twelve tensors."""
    rng = np.random.default_rng(2)
    actor, critic = ppo.mlp([4, 64, 64, 2], rng), ppo.mlp([4, 64, 64, 1], rng)
    params = list(actor.parameters()) + list(critic.parameters())
    optimizer = ppo.OPTIMIZERS[name](params, lr=1e-3)
    before = [param.detach().clone() for param in params]
    ppo.update_once(actor, critic, optimizer, make_batch(rng))
    for param, old in zip(params, before, strict=True):
        # The first step of Adam moves each element by nearly the learning rate.
        assert 0.9e-3 < (param - old).abs().max() < 1.1e-3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_do_not_add_up(ppo: ModuleType, name: str) -> None:
    """Each update starts from a gradient of zero."""
    rng = np.random.default_rng(2)
    actor, critic = ppo.mlp([4, 64, 64, 2], rng), ppo.mlp([4, 64, 64, 1], rng)
    params = list(actor.parameters()) + list(critic.parameters())
    optimizer = ppo.OPTIMIZERS[name](params, lr=1e-12)  # so that the gradient stays the same
    batch = make_batch(rng)
    ppo.update_once(actor, critic, optimizer, batch)
    first = [param.grad.clone() for param in params]
    ppo.update_once(actor, critic, optimizer, batch)
    torch.testing.assert_close([param.grad for param in params], first)


def test_optimizers_agree_closely(ppo: ModuleType) -> None:
    """From the same weights and moments, each of a few updates leads to the same but for roundings.

    Over several updates a difference in the last bit may grow: a gradient that nearly vanishes says nothing of the
    direction of its step.
    """
    runs = {}
    for name in OPTIMIZERS:
        rng = np.random.default_rng(3)
        actor, critic = ppo.mlp([4, 64, 64, 2], rng), ppo.mlp([4, 64, 64, 1], rng)
        params = list(actor.parameters()) + list(critic.parameters())
        runs[name] = actor, critic, ppo.OPTIMIZERS[name](params, lr=1e-3)
    for seed in range(10):
        ends = {}
        for name, run in runs.items():
            ppo.update_once(*run, make_batch(np.random.default_rng(seed)))
            ends[name] = torch.cat([param.detach().flatten() for param in members(run[2])])
        for name, (*_, optimizer) in runs.items():
            torch.testing.assert_close(ends[name], ends["torch"], rtol=0, atol=1e-6)
            level(runs["torch"][2], optimizer)


@pytest.mark.slow
def test_reset_steps_are_not_trained_on(ppo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training leaves out the steps on which an environment merely resets."""
    # Reset steps, and only they, start from an observation where the episode is already over.
    seen: list[np.ndarray] = []

    monkeypatch.setattr(ppo, "update", lambda *args: seen.append(args[4][0]))
    returns = ppo.train(0, 4096, progress=False)
    trained = np.concatenate(seen)
    assert np.abs(trained[:, 0]).max() <= 2.4
    assert np.abs(trained[:, 2]).max() <= math.radians(12)
    # Every episode costs one reset step, but the last of each environment may still be to come.
    assert 4096 - len(returns) <= len(trained) <= 4096 - len(returns) + load("_cartpole").NUM_ENVS


@pytest.mark.slow
def test_the_first_rollout_is_that_of_the_numpy_example(ppo: ModuleType, numpy_ppo: ModuleType) -> None:
    """Before the first update, the same seed draws the same actions in both examples."""
    cartpole = load("_cartpole")
    steps = cartpole.NUM_ENVS * cartpole.ROLLOUT_STEPS
    expected = numpy_ppo.train(0, steps, progress=False)
    assert len(expected) > 20
    assert ppo.train(0, steps, progress=False) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_seed_gives_the_same_returns(ppo: ModuleType, name: str) -> None:
    """A seed decides a run completely, and torch's own random numbers have no part in it."""
    torch.manual_seed(1)
    first = ppo.train(3, 6144, name, progress=False)
    torch.manual_seed(2)
    assert first == ppo.train(3, 6144, name, progress=False)
    assert first != ppo.train(4, 6144, name, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fastadam", "torch"])
def test_learns(ppo: ModuleType, name: str) -> None:
    """A quarter of the usual budget is enough to get far beyond the random policy."""
    returns = ppo.train(0, 25_000, name, progress=False)
    assert np.mean(returns[:20]) < 50
    assert np.mean(returns[-20:]) > 150
    assert max(returns) == 500  # reached, and not exceeded: the time limit ends an episode


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TORCH_EXAMPLE), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_runs_as_a_program(tmp_path: Path, name: str) -> None:
    """The program shows its progress, reports its result, and writes its plot."""
    path = tmp_path / "curve.png"
    done = run(tmp_path, "--seed", "1", "--steps", "3000", "--plot", str(path), "--optimizer", name)
    assert "mean return" in done.stderr  # the progress bar
    result = done.stdout.splitlines()[-1]
    match = re.fullmatch(r"Mean return over the last 20 episodes: (\d+\.\d) \(\d+\.\d s\)", result)
    assert match is not None, result
    assert 8 < float(match[1]) < 300
    picture = image.imread(path)
    assert min(picture.shape[:2]) > 400
    assert picture.std() > 0.01  # not blank


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizer", "adam"], "invalid choice"),
        (["--steps", "0"], "argument --steps: must be at least 1, got 0"),
        (["--steps", "many"], "invalid positive value"),
        (["--seed", "-1"], "argument --seed: must be at least 0, got -1"),
        (["--backend", "c"], "unrecognized arguments"),
    ],
)
def test_bad_options_are_refused(
    ppo: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["ppo_cartpole_torch.py", *options])
    with pytest.raises(SystemExit) as error:
        ppo.main()
    assert error.value.code == 2
    assert message in capsys.readouterr().err
