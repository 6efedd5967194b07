"""What a build ends with if it cannot be done."""


class BuildError(Exception):
    """One sentence that says what is wrong, and the remedy."""
