"""Solve CartPole-v1 with PPO on several processes, with fastadam.mpi as the optimizer.

The method, the networks and their gradients are those of ``ppo_cartpole.py``. Here each process plays episodes of
its own and computes the gradients of its own minibatches; `fastadam.mpi.Adam` averages them, so that all processes
have the same networks after each step, and shares out the state of the optimizer.

Needs fastadam, gymnasium, matplotlib, mpi4py and tqdm, and an MPI (``pip install mpich``, where there is none).
Run it with ``mpiexec -n 4 python examples/ppo_cartpole_mpi.py``.
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: each process has a processor of its own

import numpy as np
from _cartpole import WINDOW, CartPole, Floats, Rollout, plot
from _options import make_parser, positive
from mpi4py import MPI
from ppo_cartpole import (
    BATCH_SIZE,
    EPOCHS,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    MLP,
    log_softmax,
    ppo_loss_and_grads,
)

import fastadam.mpi

COMM = MPI.COMM_WORLD


def update(
    actor: MLP, critic: MLP, optimizer: fastadam.mpi.Adam, rng: np.random.Generator, rollout: Rollout
) -> None:
    """Train on the rollouts of all processes, in minibatches of ``BATCH_SIZE`` rows from each of them."""
    # Steps that only reset an environment are left out, so that some processes have fewer rows; but all have to
    # take as many steps.
    n = COMM.allreduce(len(rollout.obs) // BATCH_SIZE, MPI.MIN) * BATCH_SIZE
    for _ in range(EPOCHS):
        for rows in rng.permutation(len(rollout.obs))[:n].reshape(-1, BATCH_SIZE):
            _, actor_grads, critic_grads = ppo_loss_and_grads(actor, critic, rollout.rows(rows))
            optimizer.step(actor_grads + critic_grads)


def train(seed: int = 0, total_steps: int = 200_000, progress: bool = True) -> list[float]:
    """Train on CartPole-v1, and return the return of every finished episode of all processes, by turns.

    The seed and the number of processes decide the initial weights, the environments, the actions and the
    minibatches. `total_steps` are those of all processes together.
    """
    rng = np.random.default_rng([seed, COMM.rank])  # other episodes on each process
    actor, critic = MLP([4, 64, 64, 2], rng), MLP([4, 64, 64, 1], rng)
    params = list(actor.parameters()) + list(critic.parameters())
    # All begin with the weights that the first process has drawn.
    optimizer = fastadam.mpi.Adam(params, lr=LEARNING_RATE, max_grad_norm=MAX_GRAD_NORM, threads=1, timeout=60)
    cartpole = CartPole(rng, seed * COMM.size + COMM.rank)

    def policy(obs: Floats) -> Floats:
        return log_softmax(actor.forward(obs))

    share = -(-total_steps // COMM.size)
    for left, rollout in cartpole.rollouts(share, policy, critic.forward, progress and COMM.rank == 0):
        optimizer.lr = LEARNING_RATE * left
        update(actor, critic, optimizer, rng, rollout)
    every = COMM.allgather(cartpole.returns)
    # In the order in which they have ended, nearly: the n-th episodes of all processes, then the next ones.
    return [returns[i] for i in range(max(map(len, every))) for returns in every if i < len(returns)]


def main() -> None:
    """Train with the options of the command line; the first process reports the result and plots it."""
    parser = make_parser("Solve CartPole-v1 with PPO over MPI.", "ppo_cartpole_mpi.png")
    parser.add_argument("--steps", type=positive, default=200_000, help="environment steps of all processes")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    args = parser.parse_args()
    start = time.perf_counter()
    returns = train(args.seed, args.steps, progress=not args.quiet)
    seconds = time.perf_counter() - start
    if COMM.rank == 0:
        plot(returns, args.plot)
        mean = np.mean(returns[-WINDOW:])
        print(f"Mean return over the last {WINDOW} episodes: {mean:.1f} ({COMM.size} processes, {seconds:.1f} s)")


if __name__ == "__main__":
    main()
