"""How every program ends: with one line, and no traceback, where that can be foreseen."""

import contextlib
import io
import os
import sys
from collections.abc import Callable

from npbn.io.quoting import printable

FAILED = 2  # also argparse's status for wrong arguments
INTERRUPTED, UNREAD = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as shells say


def run_program(
    name: str,
    work: Callable[[], int],
    expected: tuple[type[Exception], ...],
    after_interrupt: str = "",
    install: str = "",
) -> int:
    """Run a program; return its exit status.

    Parameters
    ----------
    name : str
        Begins every line about an early end, which goes to standard error.
    work : callable
        Returns the exit status.
    expected : tuple of types
        Errors that end the program with one line, besides those of the system.
    after_interrupt : str
        What to do after Ctrl-C, or what is there by then.
    install : str
        The command to show for a package that is missing; without it the error says what to do.

    Returns
    -------
    int
        That of ``work``, or :data:`FAILED`, :data:`INTERRUPTED`, or :data:`UNREAD` if standard
        output was closed.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A pipe shows each line when it is printed; a character that it cannot take ends nothing.
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    foreseen: tuple[type[Exception], ...] = (ModuleNotFoundError, OSError, *expected)
    try:
        status = work()
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads the output, such as `head`, has read enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except KeyboardInterrupt:
        after = f"; {after_interrupt}" if after_interrupt else ""
        return _end(INTERRUPTED, f"{name}: interrupted{after}")
    except MemoryError:
        return _end(FAILED, f"{name}: error: more memory is needed than is available")
    except foreseen as error:
        if install and isinstance(error, ModuleNotFoundError):
            return _end(FAILED, f"{name} needs {error.name}: {install}")
        reason = printable(" ".join(str(error).split()), 2000)
        return _end(FAILED, f"{name}: error: {reason}")


def _end(status: int, line: str) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)
    return status
