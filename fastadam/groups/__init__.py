"""What is optimized: groups of parameters with their options, moments and step counters.

Faces, `fastadam.work`, checkpoints and conversions import from here; backends do not.
"""
