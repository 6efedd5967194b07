"""torch's own optimizers and clipping functions, whatever `fastadam.torch.patching` puts in their places later."""

from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm
from torch.optim.adam import Adam
from torch.optim.adamw import AdamW

__all__ = ["Adam", "AdamW", "clip_grad_norm_", "clip_grads_with_norm_", "get_total_norm"]
