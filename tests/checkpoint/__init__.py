"""Checkpoints: what is saved comes back in every bit; what does not fit is refused."""
