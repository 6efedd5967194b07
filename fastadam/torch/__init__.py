"""For PyTorch: torch's optimizers, whose step is one native call, and one launch on each GPU, and its clipping.

::

    import fastadam.torch
    optimizer = fastadam.torch.Adam(list(actor.parameters()) + list(critic.parameters()), lr=3e-4)
    optimizer.zero_grad(); loss.backward(); optimizer.step()

What is for others to import stands here: `Adam` and `AdamW`; `clip_grad_norm_`, `get_total_norm` and
`clip_grads_with_norm_`, with torch's signatures; `patched`, `patch` and `unpatch`, which put all of these where
torch has its own. Everything in this folder may import torch.

A step (`adam`, with the options as `options` reads them) is first attempted in one call: `attempts` compares all
tensors with what `cache` knows of them, natively by their `fingerprints`, and takes the `active` plan if nothing
has changed that matters. Otherwise nothing has been written, and the step is taken with care (`careful`):
`visit` looks at everything and makes a `part` of each parameter, `staging` steps them in whatever layout they
are, and the cache is filled anew. `tensors` says what a tensor must be, `devices` where steps run, and `modes`
what of torch's is switched off meanwhile. What an optimizer keeps for all that is its `memo`. Steps that our
kernels do not serve are torch's own: `handover`. Of sparse gradients (`sparse`), the rows alone are stepped: by a
plan of `pieces` in a step with care, and by one of `table_plans`, for `tables`, in an attempt. `scaling` is about
`grad_scale` and `found_inf`, `measuring` about the norm of gradients that are not plain.

Between steps, `growth` gives parameters other rows, which a `selection` names and `gathering` puts together;
`replaced` remembers which parameters have gone that way.

Of DTensors, each process steps the plain tensors that it has: `shards` does all of the above over a twin of the
optimizer, `dtensors` knows how they are shared out, and `shared_norm` adds up over all processes.

Gradients are clipped by `clipping`, over lists that `gradients` has read natively. `patching` exchanges torch's
names; `originals` has what they stood for.
"""

from fastadam.torch.adam import Adam
from fastadam.torch.adamw import AdamW
from fastadam.torch.clipping import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from fastadam.torch.patching import patch, patched, unpatch

__all__ = [
    "Adam",
    "AdamW",
    "clip_grad_norm_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "patch",
    "patched",
    "unpatch",
]

for _each in (Adam, AdamW, clip_grad_norm_, clip_grads_with_norm_, get_total_norm):  # as pickles are to name them
    _each.__module__ = __name__
del _each
