"""How the programs of this folder end, as :mod:`npbn.io.ending` ends npbn's own.

It imports nothing that takes time, nor npbn, and the programs import the rest when they run: so an
interrupt meets it from the first moment on, and the first line is printed at once.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable

FAILED, INTERRUPTED, UNREAD = 2, 130, 141  # the last two: 128 + SIGINT, 128 + SIGPIPE


def run_program(
    name: str,
    work: Callable[[], int],
    install: str,
    after_interrupt: str,
    expected: tuple[type[Exception], ...] = (),
) -> int:
    """Run a program; return its exit status.

    Parameters
    ----------
    name : str
        Begins every line about an early end, which goes to standard error.
    work : callable
        Returns the exit status.
    install : str
        The command to show for a package that is missing.
    after_interrupt : str
        What to do after Ctrl-C, or what is there by then.
    expected : tuple of types
        Errors besides npbn's own and the system's that end the program with one line.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A pipe shows each line when it is printed; a character that it cannot take ends nothing.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        return work()
    except KeyboardInterrupt:
        return _end(INTERRUPTED, f"{name}: interrupted; {after_interrupt}")
    except BrokenPipeError:  # whoever reads the output, such as `head`, has read enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except ModuleNotFoundError as error:
        return _end(FAILED, f"{name} needs {error.name}: {install}")
    except Exception as error:
        from npbn.errors import NpbnError

        if not isinstance(error, (NpbnError, OSError, *expected)):
            raise
        return _end(FAILED, f"{name}: error: {error}")


def _end(status: int, line: str) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)
    return status
