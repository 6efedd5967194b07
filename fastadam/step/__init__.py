"""What one step is: the formula (`element`), its scalars (`coefficients`), options, formats, and the plan.

The plan is what a backend runs; how many threads it takes, what happens when a signal arrives and who may step
at a time is here too: `threads`, `interrupts`, `locks`. `backend` says what a backend is, `prepared` how its steps
become native calls in one go, `quiet` how NumPy keeps silent meanwhile. Any floor above may import from here; this
one imports from `fastadam.memory` alone.
"""
