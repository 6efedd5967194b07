"""Who takes the step: the registry, and each backend."""
