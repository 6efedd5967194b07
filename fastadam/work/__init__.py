"""From groups to the plan of a step, and the check of a step's gradients; for `fastadam.adam` alone."""
