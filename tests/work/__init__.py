"""From groups to one plan: the check of gradients, and what is planned once."""
