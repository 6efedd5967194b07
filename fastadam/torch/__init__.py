"""`Adam` and `AdamW` for PyTorch: torch's optimizers, whose step is one native call, and one launch on each GPU.

::

    import fastadam.torch
    optimizer = fastadam.torch.Adam(list(actor.parameters()) + list(critic.parameters()), lr=3e-4)
    optimizer.zero_grad(); loss.backward(); optimizer.step()

Only the two classes are for others to import; everything in this folder may import torch.
"""

from fastadam.torch.adam import Adam, AdamW

__all__ = ["Adam", "AdamW"]

for _each in (Adam, AdamW):  # pickles name the public place
    _each.__module__ = __name__
del _each
