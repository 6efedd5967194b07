"""Memory of CUDA devices: `arrays` in it, the calls of the `driver`, and whether any device is `available`.

Nothing but `fastadam.memory.devices` and the CUDA backend imports from here.
"""
