"""Every road that batch norm takes by size, on the small arrays that tests draw.

In a test module::

    road = pytest.fixture(roads.taken, scope="module", params=roads.ROADS, autouse=True)
"""

import pytest

from npbn.functional import batch_measure, batch_norm_large, batch_norm_small, passes

LARGE = {(batch_norm_small, "SMALL"): 0, (batch_norm_large, "FEW"): 1}
THREADED = {
    **LARGE,
    (batch_norm_large, "FEW"): 64,
    (batch_measure, "WIDE_BYTES"): 0,
    (passes, "BLOCK_BYTES"): 256,
    (passes, "THREADED_BYTES"): 0,
    (passes, "REPEATED"): 0,
    (passes, "LOOP"): 64,
}
ROADS = {"small": {}, "wide": LARGE, "in threads": THREADED}


def taken(request):
    """Send every batch down one road, the fixture's parameter, while a module's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), value in ROADS[request.param].items():
            assert hasattr(module, name)
            patch.setattr(module, name, value)
        yield request.param
