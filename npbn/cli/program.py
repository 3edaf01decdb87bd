"""Running one command: its output, its errors on one line, its exit status."""

import io
import os
import sys
from collections.abc import Sequence

from npbn.cli.options import parser
from npbn.errors import NpbnError
from npbn.io.quoting import printable

ERROR = 2  # also argparse's status for wrong arguments
INTERRUPTED = 130  # a shell's status of a program that SIGINT ended
BROKEN_PIPE = 141  # a shell's status of a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process, ``sys.argv[1:]``.

    Returns
    -------
    int
        The exit status: 0; 1 if ``info`` finds unhealthy values or ``diff`` a difference; 2 on an
        error, which is printed to stderr on one line; 130 if interrupted; 141 if stdout was closed.

    Raises
    ------
    SystemExit
        After ``--help`` and ``--version``, and on arguments that are not accepted.
    """
    options = parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # for characters that the terminal does not have
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `npbn info FILE | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"npbn {options.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except MemoryError:
        reason = "more memory is needed than is available"
    except RecursionError:
        reason = "the file is nested too deeply"
    except (NpbnError, OSError, ModuleNotFoundError) as error:
        reason = " ".join(str(error).split())
    print(f"npbn {options.command}: error: {printable(reason, 2000)}", file=sys.stderr)
    return ERROR
