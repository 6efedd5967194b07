"""Stands in for matplotlib where it comes first on the path: a matplotlib that cannot be imported."""

raise ImportError("this is a test without matplotlib")
