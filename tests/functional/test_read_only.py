"""Running statistics that are read-only are refused before either is changed.

A read-only variance was noticed when the mean had changed.
"""

import numpy as np
import pytest

from npbn import functional

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("fixed", [0, 1])
def test_the_functions_running_statistics(fixed):
    arrays = [np.zeros(2), np.ones(2)]
    arrays[fixed].flags.writeable = False
    with pytest.raises(ValueError, match="that can be written to"):
        functional.batch_norm(np.eye(2), *arrays, training=True)
    assert [array.tolist() for array in arrays] == [[0, 0], [1, 1]]
    functional.batch_norm(np.eye(2), *arrays)
