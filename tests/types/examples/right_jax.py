"""Right uses with JAX, in which type checkers find nothing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

import fastadam
from fastadam import convert

params = {"w": np.zeros(3, np.float32), "b": np.zeros(1, np.float32)}
optimizer = fastadam.Adam(params, lr=optax.cosine_decay_schedule(0.1, 100))
gradient = jax.jit(jax.grad(lambda p: ((p["w"] - 1.0) ** 2).sum()))
optimizer.step(gradient(params))
arrays: dict[str, jax.Array] = {"w": jnp.ones(3), "b": jnp.ones(1)}
optimizer.step(arrays)
fastadam.Adam(np.ones(3)).step(jnp.ones(3))
fastadam.Adam([np.ones(3)]).step([jnp.ones(3)])
fastadam.Parameter(np.ones(3)).grad = jnp.ones(3)


def fun(p: dict[str, NDArray[np.float32]]) -> tuple[jax.Array, dict[str, jax.Array]]:
    return jnp.ones(()), arrays


fastadam.minimize(fun, params, steps=3)
fastadam.minimize(jax.value_and_grad(lambda p: p["w"].sum()), params, steps=3)
state: Any = optax.adam(1e-3).init(params)
convert.from_optax(state, optimizer)
state = convert.to_optax(optimizer, state)
