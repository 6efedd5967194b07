"""The benchmarks: what they may need, what they make of their times, and their pages."""
