"""The memory of CUDA devices.

`device` is what others see of it, `arrays` are those in it, `driver` makes the calls, and `available` says whether
there is any. `fastadam.memory.devices` finds it by name, and only the CUDA backend imports from here: without this
folder and that one, all else works.
"""
