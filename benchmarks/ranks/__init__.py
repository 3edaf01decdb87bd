"""A training step on several MPI ranks: measured, put into a model, and shown."""
