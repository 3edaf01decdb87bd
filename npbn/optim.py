"""SGD, with torch's update rule."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from npbn.engines import current
from npbn.errors import StateDictError
from npbn.layers.parameter import Parameter
from npbn.layers.state import numbers

__all__ = ["SGD"]

# What torch's state of SGD has always had, and that of no other of its optimizers; 'maximize' came
# later.
OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov")


class SGD:
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD`` does it.

    For each parameter p with gradient g (−g when maximising)::

        g = g + weight_decay · p
        b = momentum · b + (1 − dampening) · g        (b = g at the first step)
        p = p − lr · (g + momentum · b  if nesterov else  b)

    Without momentum p = p − lr · g. I. Sutskever et al., "On the importance of
    initialization and momentum in deep learning", 2013; torch multiplies lr in last.

    Parameters
    ----------
    params : iterable of Parameter, of (name, Parameter), or of dicts
        A dict is a parameter group: key ``params``, and options that differ from the
        defaults given here.
    lr, momentum, dampening, weight_decay : float
    nesterov, maximize : bool

    Attributes
    ----------
    param_groups : list of dict
        Options may be changed between steps: ``optimizer.param_groups[0]["lr"] = 0.001``.
    state : dict
        Parameter to ``{"momentum_buffer": ndarray}``.

    Raises
    ------
    ValueError
        On a negative rate, no parameters, one parameter twice, or nesterov without momentum
        or with dampening.

    Notes
    -----
    Error bound of a step: 6 eps · (|p| + lr · (|g| + weight_decay |p| + 2 momentum |b|)), the
    magnitudes that are summed into a number, each of which passes at most 12 roundings.

    Examples
    --------
    >>> import numpy as np
    >>> from npbn import Parameter
    >>> p = Parameter(np.array([1.0]))
    >>> optimizer = SGD([p], lr=0.1)
    >>> p.grad = np.array([2.0])
    >>> optimizer.step()
    >>> p.data
    array([0.8])
    """

    def __init__(
        self,
        params: Iterable[Parameter] | Iterable[tuple[str, Parameter]] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        self.defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        _check_options(self.defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Parameter, dict[str, np.ndarray]] = {}
        given = [params] if isinstance(params, Parameter) else list(params)
        if not given:
            raise ValueError("SGD: expected at least one parameter, got an empty list")
        groups = given if isinstance(given[0], Mapping) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a dict of ``params`` and the options that differ from the defaults."""
        unknown = group.keys() - self.defaults.keys() - {"params"}
        if unknown or "params" not in group:
            raise ValueError(
                f"SGD: expected a group with 'params' and options of {sorted(self.defaults)}, "
                f"got {sorted(group)}"
            )
        params = group["params"]
        params = [params] if isinstance(params, Parameter) else list(params)
        params = [p[1] if isinstance(p, tuple) and len(p) == 2 else p for p in params]
        for parameter in params:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"SGD: expected Parameters, got {type(parameter).__name__}")
        everything = [p for g in self.param_groups for p in g["params"]] + params
        if len({id(p) for p in everything}) != len(everything):
            raise ValueError("SGD: expected every parameter once, got one of them twice")
        options = {**self.defaults, **group, "params": params}
        _check_options(options)
        self.param_groups.append(options)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, the next ones are new arrays; or set those there are to zeros."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.zero_grad(set_to_none)

    @np.errstate(all="ignore")
    def step(self) -> None:
        """Update, in place, every parameter that has a gradient."""
        update = current().sgd
        for parameter, options in self._changing():
            self._update(update, parameter, options)

    def _changing(self) -> list[tuple[Parameter, tuple]]:
        """Return what a step changes, and the options; what is wrong is seen before it does."""
        changing = []
        for group in self.param_groups:
            rates = [float(group[name]) for name in ("lr", "momentum", "dampening", "weight_decay")]
            options = *rates, bool(group["nesterov"]), bool(group["maximize"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if not parameter.data.flags.writeable:
                    raise ValueError(
                        "SGD.step: expected parameters that can be written to, got a read-only one "
                        f"of shape {parameter.shape}"
                    )
                changing.append((parameter, options))
        return changing

    def _update(self, update: Callable, parameter: Parameter, options: tuple) -> None:
        values, grad = parameter.data, parameter.grad
        parameter.changed()
        lr, momentum, dampening, *others = options
        if not momentum:
            update(values, grad, None, *options)
            return
        state = self.state.setdefault(parameter, {})
        buffer = state.get("momentum_buffer")
        if buffer is None:  # with zeros, and no dampening, b = g
            buffer, dampening = np.zeros_like(values), 0.0
        state["momentum_buffer"] = buffer = np.asarray(buffer, values.dtype)
        update(values, grad, buffer, lr, momentum, dampening, *others)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of state and options in torch's form, the parameters by number."""
        numbers = self._numbers()
        return {
            "state": {
                numbers[parameter]: {name: array.copy() for name, array in state.items()}
                for parameter, state in self.state.items()
            },
            "param_groups": [
                {**group, "params": [numbers[p] for p in group["params"]]}
                for group in self.param_groups
            ],
        }

    @np.errstate(all="ignore")
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state and options; options unknown here (torch has more) are left out.

        Raises
        ------
        StateDictError
            If it is no state of SGD (Adam's, say), or groups, their sizes or the shapes of the
            buffers differ; nothing has been changed then.
        """
        try:
            state, groups = self._read(state_dict)
        except ValueError as error:
            raise StateDictError(f"SGD.load_state_dict: {error}") from error
        for group in groups:
            _check_options(group)
        self.state, self.param_groups = state, groups

    def _read(self, state_dict: Mapping[str, Any]) -> tuple[dict, list[dict[str, Any]]]:
        """Return state and groups from a state_dict, or raise ValueError."""
        groups = _groups(state_dict)
        expected = [len(group["params"]) for group in self.param_groups]
        came = [len(group["params"]) for group in groups]
        if came != expected:
            raise ValueError(f"expected groups of {expected} parameters, got {came}")
        saved_numbers = [number for group in groups for number in group["params"]]
        by_number = dict(zip(saved_numbers, self._numbers(), strict=True))
        if len(by_number) < len(saved_numbers):
            raise ValueError(f"expected every parameter once, got {saved_numbers}")
        state = {}
        for number, saved in state_dict["state"].items():
            if number not in by_number:
                raise ValueError(f"expected parameters {saved_numbers}, got {number!r}")
            if not isinstance(saved, Mapping) or saved.keys() - {"momentum_buffer"}:
                raise ValueError(
                    f"expected the state of SGD, a 'momentum_buffer', got for parameter {number} "
                    f"{_shown(saved)}"
                )
            if saved.get("momentum_buffer") is None:  # torch's before the first step
                continue
            parameter = by_number[number]
            try:
                buffer = numbers(saved["momentum_buffer"], parameter.shape)
            except ValueError as error:
                raise ValueError(f"momentum_buffer of {number}: {error}") from error
            state[parameter] = {"momentum_buffer": np.empty_like(parameter.data)}
            state[parameter]["momentum_buffer"][...] = buffer
        mine = self.param_groups
        return state, [{**m, **_options(saved)} for m, saved in zip(mine, groups, strict=True)]

    def _numbers(self) -> dict[Parameter, int]:
        params = (p for group in self.param_groups for p in group["params"])
        return {parameter: number for number, parameter in enumerate(params)}

    def __repr__(self) -> str:
        lines = ["SGD ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {name}: {group[name]}" for name in sorted(self.defaults)]
        return "\n".join([*lines, ")"])


def _check_options(options: Mapping[str, Any]) -> None:
    for name in ("lr", "momentum", "weight_decay"):
        if not options[name] >= 0:
            raise ValueError(f"SGD: expected {name} >= 0, got {options[name]}")
    if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
        raise ValueError(
            "SGD: nesterov needs momentum > 0 and dampening 0, got momentum "
            f"{options['momentum']} and dampening {options['dampening']}"
        )


def _groups(state_dict: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the groups of a state_dict of SGD, or raise ValueError."""
    if not (isinstance(state_dict, Mapping) and {"state", "param_groups"} <= state_dict.keys()):
        raise ValueError(f"expected 'state' and 'param_groups', got {_shown(state_dict)}")
    state, groups = state_dict["state"], state_dict["param_groups"]
    if not isinstance(state, Mapping) or not isinstance(groups, list | tuple):
        raise ValueError(
            f"expected a dict as 'state' and a list as 'param_groups', got {_shown(state)} and "
            f"{_shown(groups)}"
        )
    for group in groups:
        if not isinstance(group, Mapping) or not {"params", *OPTIONS} <= group.keys():
            raise ValueError(f"expected groups with the options of SGD, got {_shown(group)}")
        params = group["params"]
        if not isinstance(params, list | tuple) or not all(
            isinstance(number, int | np.integer) for number in params
        ):
            raise ValueError(f"expected 'params' as a list of numbers, got {_shown(params)}")
    return list(groups)


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a group, numbers all, or raise ValueError."""
    options = {name: group[name] for name in (*OPTIONS, "maximize") if name in group}
    for name, value in options.items():
        try:
            options[name] = value if isinstance(value, bool) else float(value)  # a tensor, say
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"expected a number as {name}, got {_shown(value)}") from error
    return options


def _shown(value: Any) -> str:
    """Return what came, in short: the keys of a dict, or the type."""
    if isinstance(value, Mapping):
        return f"a dict of {sorted(map(repr, value))[:9]}"
    return type(value).__name__
