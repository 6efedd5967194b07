"""What is optimized: groups, their options and their state."""
