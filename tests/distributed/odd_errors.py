"""What test_odd_errors.py runs under mpiexec: errors whose text is hard to send."""

import sys

import programs


class Broken(ValueError):
    def __str__(self):
        raise RuntimeError("no text")


class NoText(ValueError):
    def __str__(self):
        return None


ERRORS = {
    "surrogate": lambda: ValueError("\udcff bad"),
    "broken": Broken,
    "no_text": NoText,
    "long": lambda: ValueError("é" * 10**6),
    "nul": lambda: ValueError("bad \0"),
}


def odd(x, target, net, comm):
    raise ERRORS[sys.argv[1]]()


programs.separate_output()
programs.training(odd)
