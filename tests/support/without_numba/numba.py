"""Stands in for Numba where it comes first on the path: a Numba that cannot be imported."""

raise ImportError("this is a test without Numba")
