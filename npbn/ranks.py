"""Loaders and networks of one rank of several are refused by functions for a single process."""

import sys
from typing import Any

from npbn.errors import DistributedError


def of_one_process(who: str, loader: Any, net: Any = None) -> None:
    """Raise DistributedError if the loader gives shards, or a module belongs to several ranks."""
    if "npbn.distributed" not in sys.modules:  # to look at all modules takes 13 µs a step
        return
    modules = () if net is None else net.modules()
    for part in (loader, getattr(loader, "iterable", None), *modules):  # in a progress bar too
        ranks = getattr(getattr(part, "comm", None), "size", 1)
        if ranks > 1:
            raise DistributedError(
                f"{who}: expected loader and network of one process, got a {type(part).__name__} "
                f"of {ranks} ranks; use npbn.distributed.{who}"
            )
