"""What the codec costs in seconds, and in bytes over the ideal.  Benchmarks are not tests."""
