"""Programs that measure npbn beside others: ``python -m benchmarks NAME``."""
