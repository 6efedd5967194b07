"""What tests share: comparisons, oracles, strategies, cases."""
