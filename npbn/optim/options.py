"""The options of SGD: checked, and read from a ``state_dict``."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from npbn.arguments import check_bool, check_number

# Torch's state of SGD has had these from the start, and that of no other optimizer has all of them;
# 'maximize' came later.
OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov")


def check_options(who: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError unless each option has a value in its range."""
    for name in ("lr", "momentum", "dampening", "weight_decay"):
        check_number(who, name, options[name])
        if name != "dampening" and not options[name] >= 0:
            raise ValueError(f"{who}: expected {name} >= 0, got {options[name]}")
    for name in ("nesterov", "maximize"):
        check_bool(who, name, options[name])
    if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
        raise ValueError(
            f"{who}: nesterov needs momentum > 0 and dampening 0, got momentum "
            f"{options['momentum']} and dampening {options['dampening']}"
        )


def saved_groups(state_dict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the groups of a state_dict of SGD, or raise ValueError."""
    if not (isinstance(state_dict, Mapping) and {"state", "param_groups"} <= state_dict.keys()):
        raise ValueError(f"expected 'state' and 'param_groups', got {shown(state_dict)}")
    state, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(state, Mapping) or not isinstance(groups, list | tuple):
        raise ValueError(
            f"expected a dict as 'state' and a list as 'param_groups', got {shown(state)} and "
            f"{shown(groups)}"
        )
    for group in groups:
        if not isinstance(group, Mapping) or not {"params", *OPTIONS} <= group.keys():
            raise ValueError(f"expected groups with the options of SGD, got {shown(group)}")
        params = group["params"]
        if not isinstance(params, list | tuple) or not all(
            isinstance(number, int | np.integer) for number in params
        ):
            raise ValueError(f"expected 'params' as a list of numbers, got {shown(params)}")
    return list(groups)


def saved_options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a group as numbers, or raise ValueError."""
    options = {name: group[name] for name in (*OPTIONS, "maximize") if name in group}
    for name, value in options.items():
        try:
            number = math.nan if isinstance(value, str | bytes) else float(value)  # tensors too
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = math.nan
        if math.isnan(number):
            raise ValueError(f"expected a number as {name}, got {value!r:.80}")
        options[name] = bool(number) if name in ("nesterov", "maximize") else number
    return options


def shown(value: Any) -> str:
    """Return what was passed, in short: the keys of a dict, or the type."""
    if isinstance(value, Mapping):
        return f"a dict of {sorted(map(repr, value))[:9]}"
    return type(value).__name__
