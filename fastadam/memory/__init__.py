"""What an array must be, and where it lies in memory: the ground floor, which imports nothing above it.

`arrays` checks NumPy arrays and `buffers` reserves memory for them. `device` says what a device offers, `host` is
the host as one, `cuda` are CUDA devices, and `devices` finds the one that an array is on. `written` is the memory
that a step writes, `parameter` an array with its gradient, `packed` many arrays in one. `structs` lists the memory
that Python and native code share; `array_offsets` knows where array objects keep their fields.
"""
