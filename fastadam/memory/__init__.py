"""What an array must be, and where it lies in memory: the ground floor, which imports nothing above it.

`arrays` checks NumPy arrays and `buffers` reserves memory for them. `device` says what a device offers, `host`
is the host as one, `cuda` are CUDA devices, and `devices` finds the one that an array is on. `written` is the
memory that a step writes, `parameter` an array with its gradient, `packed` many arrays in one, with its
`views`, which are `packed_arrays`. `arrived` gives arrays that come in read-only memory their own. `formats` is
the table of the formats of numbers; `structs` lists the memory that Python and native code share, in the terms of
`native`; `array_offsets` knows where array objects keep their fields. `words` and `remedies` are what messages
say of values, and of what to do about them; `real_numbers` reads arrays for doors that take anything. Any floor
above may import from here.
"""
