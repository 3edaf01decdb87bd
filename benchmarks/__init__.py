"""Programs that measure npbn beside others: ``python -m benchmarks NAME``."""

# Modules of this package, each with run(out, quick, threads).
PROGRAMS = ("batch_norm", "train_step", "inference", "conv", "scaling", "footprint", "accuracy")
PROGRAMS += ("wild",)
