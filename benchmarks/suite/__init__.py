"""What asv runs: see asv.conf.json. Every module but `measured` and `ppo` holds benchmarks."""
