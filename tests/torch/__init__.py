"""The face for torch, against torch's own optimizers."""
