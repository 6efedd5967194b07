"""How the house is built, and what its pages say: imports, sizes, documentation."""
