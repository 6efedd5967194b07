"""What is optimized: groups of parameters with their options, moments and step counters.

`given` reads what the user gives, `group` is one group of `members`, `groups` all of an optimizer's; `state`,
`saved` and `loading` are what is remembered, seen live, saved and taken over; `contents` is the way in for
checkpoints and conversions, and `matching` pairs what they hold with parameters. `copies` says how optimizers
are copied and pickled. `edits` and `patterns` serve the face for PyTorch, too. Faces, `fastadam.work`, checkpoints
and conversions import from here; backends do not.
"""
