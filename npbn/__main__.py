"""``python -m npbn``, which is the command ``npbn``."""

import sys

from npbn.cli import main

if __name__ == "__main__":
    sys.exit(main())
