"""The dashboard: a curve for every case that was measured, and asv's pages, without anything from other hosts.

``python -m benchmarks.dashboard`` builds and serves it. ``notes.json`` says what to know about a commit's values.
"""
