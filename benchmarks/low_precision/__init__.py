"""How well networks train with compact state and with 16-bit weights, and how many bytes that takes.

``python -m benchmarks.low_precision`` trains three of them with several seeds each, shows what goes wrong with
other ways to round, and measures memory; docs/guides/low-precision.md has what it found. Results are kept in a
JSON file run by run, so that it goes on where it was stopped, and does only what is not there.
"""
