"""What is one of several ranks is refused where it would be taken for the whole."""

from typing import Any

from npbn.errors import DistributedError


def of_one_process(who: str, loader: Any, *modules: Any) -> None:
    """Raise DistributedError if a loader gives shards, or a network is one of several ranks."""
    for part in (loader, getattr(loader, "iterable", None), *modules):  # of a progress bar
        ranks = getattr(getattr(part, "comm", None), "size", 1)
        if ranks > 1:
            raise DistributedError(
                f"{who}: expected loader and network of one process, got a {type(part).__name__} "
                f"of {ranks} ranks, for which there is npbn.distributed.{who}"
            )
