"""From groups to the plan of a step, and the check of a step's gradients; for `fastadam.adam` alone.

`planner` keeps the work lists of an optimizer (`arrays`, made of `slots`) in step with its groups, `choice` and
`devices` say which backend steps what, `gradients` sorts what a step is given, and `care` takes the steps that
are not plain.
"""
