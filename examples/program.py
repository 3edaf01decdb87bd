"""How the programs of this folder end: as all of npbn's, and where npbn is not installed too."""

import sys
from collections.abc import Callable


def run_program(
    name: str,
    work: Callable[[], int],
    install: str,
    after_interrupt: str,
    expected: tuple[type[Exception], ...] = (),
) -> int:
    """Run a program by :func:`npbn.io.ending.run_program`; return its exit status.

    `expected` are errors besides npbn's own. The programs import what takes time in `work`, so
    that an interrupt is met there.
    """
    try:
        from npbn.errors import NpbnError
        from npbn.io import ending
    except ModuleNotFoundError as error:
        print(f"{name} needs {error.name}: {install}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # the imports take a tenth of a second
        print(f"{name}: interrupted; {after_interrupt}", file=sys.stderr)
        return 130
    return ending.run_program(name, work, (NpbnError, *expected), after_interrupt, install)
