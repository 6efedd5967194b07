"""Stands in for typer where it comes first on the path: a typer that cannot be imported."""

raise ImportError("this is a test without typer")
