"""from_config: what describes no network is refused, and the message names the layer."""

import copy
import re

import numpy as np
import pytest

from npbn import Module
from npbn.deploy.config import from_config
from npbn.errors import ConfigError, StateDictError

LINEAR = {"type": "Linear", "in_features": 2, "out_features": 3}
NORM = {"type": "BatchNorm1d", "num_features": 2}
GHOSTS = {"type": "GhostBatchNorm1d", "num_features": 2, "ghost_size": 2}
RENORM = {"type": "BatchRenorm2d", "num_features": 2, "r_max": 3.0, "d_max": 5.0}
CONV = {"type": "Conv2d", "in_channels": 2, "out_channels": 4, "kernel_size": 3}

WRONG = [
    *[(what, "a mapping with a 'type'") for what in (None, 3, "Linear", [LINEAR], {}, {"type": 3})],
    ({"type": "Linaer"}, "'Linaer'"),
    ({"type": "Module"}, "'Module'"),
    ({"type": "CrossEntropyLoss"}, "'CrossEntropyLoss'"),
    ({"type": "MLP"}, "'MLP'"),
    ({"type": "Sequential"}, "'layers'"),
    ({"type": "Sequential", "layers": [LINEAR]}, "'layers'"),
    ({"type": "Sequential", "layers": {}, "name": "net"}, "'layers'"),
    ({"type": "Sequential", "layers": {"": LINEAR}}, "''"),
    ({"type": "Sequential", "layers": {"a.b": LINEAR}}, "'a.b'"),
    ({"type": "Sequential", "layers": {"training": LINEAR}}, "'training'"),
    ({"type": "Sequential", "layers": {"0": LINEAR, 0: LINEAR}}, "got 0"),
    ({"type": "Linear"}, "in_features"),
    ({"type": "Linear", "in_features": 2}, "out_features"),
    ({"type": "AdaptiveAvgPool2d"}, "output_size"),
    ({**LINEAR, "features": 3, "rng": 0}, "no 'features', 'rng'"),
    ({**LINEAR, "weight": [[1, 2]]}, "no 'weight'"),
    ({"type": "Identity", "p": 1}, "no 'p'"),
    ({"type": "ReLU", "inplace": True}, "no 'inplace'"),
    ({**LINEAR, "in_features": "2"}, "in_features to be an integer of at least 0, got '2'"),
    ({**LINEAR, "in_features": 2.0}, "in_features to be an integer of at least 0, got 2.0"),
    ({**LINEAR, "in_features": True}, "in_features to be an integer of at least 0, got True"),
    ({**LINEAR, "in_features": None}, "in_features to be an integer of at least 0, got None"),
    ({**LINEAR, "in_features": -1}, "at least 0, got -1"),
    ({**LINEAR, "in_features": 10**40}, ""),
    ({**LINEAR, "bias": "false"}, "bias to be True or False, got 'false'"),
    ({**LINEAR, "bias": 0}, "bias to be True or False, got 0"),
    ({**LINEAR, "dtype": "int32"}, "float16, float32 or float64, got int32"),
    ({**LINEAR, "dtype": "float"}, None),  # NumPy's name of float64
    ({**LINEAR, "dtype": "wide"}, "wide"),
    ({**LINEAR, "dtype": None}, "the name of a dtype, got None"),
    ({**NORM, "num_features": [3]}, "num_features to be an integer"),
    ({**NORM, "eps": "1e-5"}, "eps to be a number"),
    ({**NORM, "eps": None}, "eps to be a number"),
    ({**NORM, "eps": 1}, None),
    ({**NORM, "momentum": None}, None),
    ({**GHOSTS, "ghost_size": 2.0}, "ghost_size to be an integer of at least 1, got 2.0"),
    ({**GHOSTS, "ghost_size": 0}, "ghost_size to be an integer of at least 1, got 0"),
    ({**RENORM, "r_max": 3}, None),
    ({**RENORM, "r_max": "3"}, "r_max"),
    ({**RENORM, "d_max": -1}, "d_max >= 0"),
    ({**RENORM, "track_running_stats": False}, "no 'track_running_stats'"),
    ({**NORM, "momentum": "none"}, "momentum to be a number"),
    ({**NORM, "momentum": False}, "momentum to be a number"),
    ({**NORM, "affine": "no"}, "affine to be True or False"),
    ({**NORM, "track_running_stats": 1}, "track_running_stats to be True or False"),
    ({**CONV, "kernel_size": [3, 3, 3]}, "kernel_size"),
    ({**CONV, "kernel_size": "3"}, "kernel_size"),
    ({**CONV, "stride": 0}, "stride"),
    ({**CONV, "padding": "full"}, "padding"),
    ({**CONV, "groups": 3}, "groups"),
    ({**CONV, "groups": "2"}, "groups to be an integer"),
    ({**CONV, "padding_mode": "reflect"}, "padding_mode"),
    ({**CONV, "padding_mode": 0}, "padding_mode"),
    ({"type": "MaxPool2d", "kernel_size": 2, "ceil_mode": "yes"}, "ceil_mode to be True or False"),
    ({"type": "AvgPool2d", "kernel_size": 2, "divisor_override": 0}, "divisor_override"),
    (
        {"type": "AvgPool2d", "kernel_size": 2, "count_include_pad": 2},
        "count_include_pad to be True or False",
    ),
    ({"type": "Dropout", "p": 1.5}, "p from 0 to 1"),
    ({"type": "Dropout", "p": "half"}, "p"),
    ({"type": "Flatten", "start_dim": "1"}, "start_dim to be an integer"),
]


@pytest.mark.parametrize(("config", "fragment"), WRONG, ids=lambda v: f"{v!s:.60}")
def test_a_wrong_description_is_refused_by_the_path_of_the_layer(config, fragment):
    """Those without a fragment are right."""
    nested = {"type": "Sequential", "layers": {"0": LINEAR, "block": {}}}
    nested["layers"]["block"] = {"type": "Sequential", "layers": {"bad": config}}
    for whole, where in ((config, "from_config: "), (nested, "from_config: block.bad: ")):
        before = copy.deepcopy(whole)
        if fragment is None:
            assert isinstance(from_config(whole), Module)
        else:
            with pytest.raises(ConfigError, match="^" + re.escape(where)) as caught:
                from_config(whole)
            assert fragment in str(caught.value)
        assert whole == before


def refused_beside_a_state(config):
    try:
        from_config(config, state={"weight": np.ones((3, 2)), "bias": np.ones(3)})
    except (ConfigError, StateDictError):
        return True
    return False


def test_a_wrong_description_is_refused_beside_a_state_too():
    wrong = [config for config, fragment in WRONG if fragment is not None]
    assert [config for config in wrong if not refused_beside_a_state(config)] == []
