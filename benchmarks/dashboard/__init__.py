"""The dashboard: asv's pages over the results in ``benchmarks/results``, without anything from other hosts.

``python -m benchmarks.dashboard`` builds and serves it.
"""
