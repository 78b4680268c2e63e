"""Settings that several benchmarks share, each with what it does to the instances of a cell."""
