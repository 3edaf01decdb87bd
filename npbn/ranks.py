"""Loaders and networks of one rank of several are refused by functions for a single process."""

from typing import Any

from npbn.errors import DistributedError


def of_one_process(who: str, loader: Any, *modules: Any) -> None:
    """Raise DistributedError if the loader gives shards, or a module belongs to several ranks."""
    for part in (loader, getattr(loader, "iterable", None), *modules):  # in a progress bar too
        ranks = getattr(getattr(part, "comm", None), "size", 1)
        if ranks > 1:
            raise DistributedError(
                f"{who}: expected loader and network of one process, got a {type(part).__name__} "
                f"of {ranks} ranks; use npbn.distributed.{who}"
            )
