"""Wrong uses with JAX; comments are the codes of errors that mypy | pyright must find in a line."""

import jax.numpy as jnp
import numpy as np

import fastadam

fastadam.Adam(np.ones(3)).step(jnp.ones)  # call-overload | reportArgumentType
fastadam.Adam([jnp.ones(3)])  # list-item | reportArgumentType
fastadam.Adam({"w": jnp.ones(3)})  # dict-item | reportArgumentType
fastadam.pack([jnp.ones(3)])  # list-item | reportArgumentType
