"""What an array must be, and where it lies."""
