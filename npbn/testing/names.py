"""The names of what a BatchNorm is given, of what it returns and of its state."""

PARAMETERS = ("weight", "bias")
RUNNING = ("running_mean", "running_var")
VECTORS = (*PARAMETERS, *RUNNING)
GRADIENTS = ("grad_input", "grad_weight", "grad_bias")
PASSES = ("y", *GRADIENTS)
# What every behaviour checks besides its subject, unless it is known to be wrong.
STATE = (*RUNNING, "num_batches_tracked", "parameters")
