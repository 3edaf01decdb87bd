"""Optimizers, with torch's update rules."""

from npbn.optim.sgd import SGD

__all__ = ["SGD"]
