"""The gate: is one commit slower than another? ``python -m benchmarks.gate BASE HEAD``.

``asv continuous`` measures the commits in blocks of seconds to minutes. On shared processors the machine changes
in between by more than what is to be found. Here both commits are installed side by side, a process of each takes
steps in turns of milliseconds with one of the other, and several such pairs of processes have to agree.
"""
