"""Tests of the PPO example."""

import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.examples.loading import EXAMPLES, load

pytest.importorskip("gymnasium")
pytest.importorskip("tqdm")
image = pytest.importorskip("matplotlib.image")

pytestmark = pytest.mark.slow

EXAMPLE = EXAMPLES / "ppo_cartpole.py"


@pytest.fixture(scope="module")
def ppo() -> ModuleType:
    return load("ppo_cartpole")


@pytest.fixture(scope="module")
def cartpole() -> ModuleType:
    return load("_cartpole")


# With CLIP = 0.2, each sign of the advantage meets ratios below, inside and above the clip range,
# all of them away from the kinks at 0.8 and 1.2.
CASES = [(ratio, adv) for ratio in (0.4, 0.7, 0.9, 1.1, 1.3, 2.0) for adv in (-1.5, -0.3, 0.6, 2.0)]


def make_loss_args(ppo: ModuleType, cases: list[tuple[float, float]]) -> tuple[Any, ...]:
    """Build the arguments of `ppo_loss_and_grads`, in float64, for given ratios and advantages."""
    rng = np.random.default_rng(0)
    actor = ppo.MLP([4, 64, 64, 2], rng, dtype=np.float64)
    critic = ppo.MLP([4, 64, 64, 1], rng, dtype=np.float64)
    for bias in (*actor.parameters()[1::2], *critic.parameters()[1::2]):
        bias += 0.1 * rng.standard_normal(bias.shape)
    ratios, advantages = np.array(cases).T
    obs = rng.standard_normal((len(cases), 4))
    actions = rng.integers(2, size=len(cases))
    log_probs = ppo.log_softmax(actor.forward(obs))[np.arange(len(cases)), actions]
    targets = rng.standard_normal(len(cases))
    batch = load("_cartpole").Rollout(obs, actions, log_probs - np.log(ratios), advantages, targets)
    return actor, critic, batch


def test_loss_matches_its_definition(ppo: ModuleType) -> None:
    """The loss is the clipped objective, written out for one sample at a time."""
    args = make_loss_args(ppo, CASES)
    _, critic, batch = args
    values = critic.forward(batch.obs)[:, 0]
    total = 0.0
    for (ratio, advantage), value, target in zip(CASES, values, batch.targets, strict=True):
        total -= min(ratio * advantage, max(0.8, min(ratio, 1.2)) * advantage)
        total += 0.5 * (value - target) ** 2
    assert ppo.ppo_loss_and_grads(*args)[0] == pytest.approx(total / len(CASES), rel=1e-12)


@pytest.mark.parametrize("network", [0, 1], ids=["actor", "critic"])
def test_gradients_match_central_differences(
    ppo: ModuleType, monkeypatch: pytest.MonkeyPatch, network: int
) -> None:
    """Every parameter's gradient agrees with a difference quotient of the whole loss."""
    args = make_loss_args(ppo, CASES)
    grads = ppo.ppo_loss_and_grads(*args)[1 + network]
    params = args[network].parameters()
    assert len(grads) == len(params) == 6
    # From here on only the loss is wanted, and without gradients it takes half the time.
    monkeypatch.setattr(ppo.MLP, "backward", lambda self, grad: [])
    step = 1e-5
    for param, grad in zip(params, grads, strict=True):
        expected = np.empty_like(param)
        for index in np.ndindex(param.shape):
            old = param[index]
            param[index] = old + step
            above = ppo.ppo_loss_and_grads(*args)[0]
            param[index] = old - step
            below = ppo.ppo_loss_and_grads(*args)[0]
            param[index] = old
            expected[index] = (above - below) / (2 * step)
        assert np.abs(expected).max() > 1e-3  # so that the comparison says something
        np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-9)


def test_clipped_samples_do_not_move_the_actor(ppo: ModuleType) -> None:
    """Samples whose ratio is clipped give the actor no gradient at all."""
    clipped = [(r, a) for r, a in CASES if (r > 1.2 and a > 0) or (r < 0.8 and a < 0)]
    _, actor_grads, critic_grads = ppo.ppo_loss_and_grads(*make_loss_args(ppo, clipped))
    assert all(not grad.any() for grad in actor_grads)
    assert all(grad.any() for grad in critic_grads)


def test_gradients_suit_the_optimizer(ppo: ModuleType) -> None:
    """Gradients have the shapes, types and memory layout that the optimizer wants."""
    rng = np.random.default_rng(0)
    actor, critic = ppo.MLP([4, 64, 64, 2], rng), ppo.MLP([4, 64, 64, 1], rng)
    floats = rng.standard_normal((3, 8), dtype=np.float32)
    obs = rng.standard_normal((8, 4), dtype=np.float32)
    batch = load("_cartpole").Rollout(obs, rng.integers(2, size=8), *floats)
    _, actor_grads, critic_grads = ppo.ppo_loss_and_grads(actor, critic, batch)
    params = actor.parameters() + critic.parameters()
    for param, grad in zip(params, actor_grads + critic_grads, strict=True):
        assert param.shape == grad.shape
        assert param.dtype == grad.dtype == np.float32
        assert param.flags.c_contiguous
        assert grad.flags.c_contiguous


def test_gae_treats_truncation_unlike_termination(cartpole: ModuleType) -> None:
    """Termination cuts off the value of what follows; truncation keeps it."""
    # Three environments take two steps. The first step goes on, terminates, or is truncated.
    rewards = np.ones((2, 3))
    values = np.array([[5.0] * 3, [7.0] * 3, [9.0] * 3])
    terminated = np.array([[False, True, False], [False] * 3])
    truncated = np.array([[False, False, True], [False] * 3])
    last = 1 + 0.99 * 9 - 7
    expected = [
        [1 + 0.99 * 7 - 5 + 0.99 * 0.95 * last, 1 - 5, 1 + 0.99 * 7 - 5],
        [last, last, last],
    ]
    np.testing.assert_allclose(cartpole.gae(rewards, values, terminated, truncated), expected)


def test_gae_matches_the_sum_that_defines_it(cartpole: ModuleType) -> None:
    """GAE is the decaying sum of the temporal differences up to the episode's end."""
    rng = np.random.default_rng(1)
    steps, envs = 40, 6
    rewards = rng.standard_normal((steps, envs))
    values = rng.standard_normal((steps + 1, envs))
    terminated = rng.random((steps, envs)) < 0.1
    truncated = rng.random((steps, envs)) < 0.1
    terminated[-1, 0], truncated[-1, 1] = True, True  # the end of the rollout
    terminated[9, 2], truncated[9, 2] = True, True  # failure on the very last step allowed
    expected = np.zeros((steps, envs))
    for env in range(envs):
        for t in range(steps):
            for k in range(t, steps):
                following = 0.0 if terminated[k, env] else values[k + 1, env]
                delta = rewards[k, env] + 0.99 * following - values[k, env]
                expected[t, env] += (0.99 * 0.95) ** (k - t) * delta
                if terminated[k, env] or truncated[k, env]:
                    break
    advantages = cartpole.gae(rewards, values, terminated, truncated)
    np.testing.assert_allclose(advantages, expected, rtol=1e-10, atol=1e-12)


def test_reset_steps_are_not_trained_on(
    ppo: ModuleType, cartpole: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training leaves out the steps on which an environment merely resets."""
    # Reset steps, and only they, start from an observation where the episode is already over.
    seen: list[np.ndarray] = []
    monkeypatch.setattr(ppo, "update", lambda *args: seen.append(args[4][0]))
    returns = ppo.train(0, 4096, progress=False)
    trained = np.concatenate(seen)
    assert np.abs(trained[:, 0]).max() <= 2.4
    assert np.abs(trained[:, 2]).max() <= math.radians(12)
    # Every episode costs one reset step, but the last of each environment may still be to come.
    assert 4096 - len(returns) <= len(trained) <= 4096 - len(returns) + cartpole.NUM_ENVS
    # Every other step earns 1, and most of them belong to episodes that have finished.
    assert len(trained) - 150 * cartpole.NUM_ENVS <= sum(returns) <= len(trained)


def test_same_seed_gives_the_same_returns(ppo: ModuleType) -> None:
    """A seed decides a run completely."""
    first = ppo.train(3, 6144, progress=False)
    assert first == ppo.train(3, 6144, progress=False)
    assert first != ppo.train(4, 6144, progress=False)


def test_learns(ppo: ModuleType) -> None:
    """A quarter of the usual budget is enough to get far beyond the random policy."""
    returns = ppo.train(0, 25_000, progress=False)
    assert np.mean(returns[:20]) < 50
    assert np.mean(returns[-20:]) > 150
    assert max(returns) == 500  # reached, and not exceeded: the time limit ends an episode


def test_runs_as_a_program(tmp_path: Path) -> None:
    """The program shows its progress, reports its result and writes its plot."""
    path = tmp_path / "curve.png"
    command = [sys.executable, str(EXAMPLE), "--seed", "1", "--steps", "3000", "--plot", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    assert "mean return" in result.stderr  # the progress bar
    last_line = result.stdout.splitlines()[-1]
    pattern = r"Mean return over the last 20 episodes: (\d+\.\d) \(\d+\.\d s\)"
    match = re.fullmatch(pattern, last_line)
    assert match is not None, last_line
    assert 8 < float(match[1]) < 300
    picture = image.imread(path)
    assert min(picture.shape[:2]) > 400
    assert picture.std() > 0.01  # not blank
