"""Checks of other platforms: results whose bits are known, and one wheel under every Python."""
