"""Speed, memory and the cost of a search.  Benchmarks are not tests."""
