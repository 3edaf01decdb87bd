"""The BatchNorm laboratory: what is said of BatchNorm, tried again.

    python -m examples.lab                  # all experiments, in about half an hour
    python -m examples.lab sensitivity      # one
    python -m examples.lab --quick          # all on a small scale, in about a minute

An experiment is a file of this folder; :class:`examples.lab.experiment.Experiment` tells what
stands in one. Each takes its idea from a paper, runs it with several seeds and says whether what
the paper claims was seen.
"""

EXPERIMENTS = (
    "sensitivity",
    "first_paper",
    "depth",
    "landscape",
    "train_and_eval",
    "large_batches",
    "placement",
)
