"""What an array must be, and where it lies in memory: the ground floor, which imports nothing above it.

`arrays` checks NumPy arrays, `buffers` reserves memory, `packed` has `pack`, `parameter` is an array with its gradient, `devices`
says what differs from one kind of memory to another, and `cuda` is the memory of CUDA devices. `structs` lists the
memory that Python and native code share; `array_offsets` knows where array objects keep their fields.
"""
