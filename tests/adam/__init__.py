"""The face for arrays: what users see of it, whatever they give it."""
