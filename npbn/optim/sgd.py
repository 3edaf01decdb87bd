"""SGD, with torch's update rule."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from npbn.engines import current
from npbn.errors import StateDictError
from npbn.layers.parameter import Parameter, check_writeable
from npbn.layers.state import numbers
from npbn.optim.options import check_options, saved_groups, saved_options, shown

__all__ = ["SGD"]

Options = tuple[float, float, float, float, bool, bool]  # of one step, in the order of the engine's


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
        A dict is a parameter group: key ``params``, and the options that differ from those given
        here.
    lr : float
        Learning rate, at least 0.
    momentum : float
        At least 0; 0 keeps no buffer b.
    dampening : float
        The gradient enters the buffer with the factor 1 − dampening.
    weight_decay : float
        At least 0.
    nesterov : bool
        Whether to use Nesterov's momentum.
    maximize : bool
        Whether to add lr times the gradient in place of subtracting it.

    Attributes
    ----------
    param_groups : list of dict
        Options may be changed between steps: ``optimizer.param_groups[0]["lr"] = 0.001``.
    state : dict
        From Parameter to ``{"momentum_buffer": ndarray}``.
    defaults : dict
        The options given here.

    Raises
    ------
    ValueError
        On an option that is out of range or no number, no parameters, one parameter twice, or
        nesterov without momentum or with dampening.
    TypeError
        On `params` that hold anything but Parameters.

    Notes
    -----
    Error bound of a step: 6 eps · (|p| + lr · (|g| + weight_decay |p| + 2 momentum |b|)). These are
    the terms of the sum, each of which is rounded at most 12 times.

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
        check_options("SGD", self.defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Parameter, dict[str, np.ndarray]] = {}
        given: list[Any] = _listed(params)
        if not given:
            raise ValueError("SGD: expected at least one parameter, got an empty list")
        groups = given if isinstance(given[0], Mapping) else [{"params": given}]
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add a group of parameters with options of its own.

        Parameters
        ----------
        group : mapping
            Key ``params``, and the options that differ from `defaults`.

        Raises
        ------
        ValueError, TypeError
            As the class; nothing has been changed then.
        """
        if not isinstance(group, Mapping):
            raise TypeError(f"SGD: expected a dict as group, got {type(group).__name__}")
        unknown = group.keys() - self.defaults.keys() - {"params"}
        if unknown or "params" not in group:
            raise ValueError(
                f"SGD: expected a group with 'params' and options of {sorted(self.defaults)}, "
                f"got {sorted(group)}"
            )
        params = _listed(group["params"])
        params = [p[1] if isinstance(p, tuple) and len(p) == 2 else p for p in params]
        for parameter in params:
            if not isinstance(parameter, Parameter):
                raise TypeError(f"SGD: expected Parameters, got {type(parameter).__name__}")
        everything = [p for g in self.param_groups for p in g["params"]] + params
        if len({id(p) for p in everything}) != len(everything):
            raise ValueError("SGD: expected every parameter once, got one of them twice")
        options = {**self.defaults, **group, "params": params}
        check_options("SGD", options)
        self.param_groups.append(options)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Remove the gradients of all parameters.

        Parameters
        ----------
        set_to_none : bool
            False replaces them with new arrays of zeros: a step then still applies momentum and
            weight decay.
        """
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.zero_grad(set_to_none)

    @np.errstate(all="ignore")
    def step(self) -> None:
        """Update, in place, every parameter that has a gradient.

        Raises
        ------
        ValueError
            If a parameter is read-only; nothing has been changed then.
        """
        update = current().sgd
        for parameter, options in self._changing():
            self._update(update, parameter, options)

    def _changing(self) -> list[tuple[Parameter, Options]]:
        """Return the parameters to update, with their options; raise before one is changed."""
        changing = []
        for group in self.param_groups:
            rates = [float(group[name]) for name in ("lr", "momentum", "dampening", "weight_decay")]
            lr, momentum, dampening, weight_decay = rates
            nesterov, maximize = bool(group["nesterov"]), bool(group["maximize"])
            options = lr, momentum, dampening, weight_decay, nesterov, maximize
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                check_writeable("SGD.step", parameter)
                changing.append((parameter, options))
        return changing

    def _update(self, update: Callable[..., None], parameter: Parameter, options: Options) -> None:
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
        # A buffer that is read-only or of another dtype is copied.
        state["momentum_buffer"] = buffer = np.require(buffer, values.dtype, "W")
        update(values, grad, buffer, lr, momentum, dampening, *others)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of state and options in torch's form.

        Returns
        -------
        dict
            ``state``, from the number of a parameter to its buffers, and ``param_groups``, with
            the numbers of their parameters as ``params``.
        """
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
        """Load state and options.

        Parameters
        ----------
        state_dict : mapping
            As :meth:`state_dict` or torch's SGD returns it; other options of torch's are left out.

        Raises
        ------
        StateDictError
            If it is not a state of SGD (but Adam's, for instance), or groups, their sizes or the
            shapes of the buffers differ, or options are out of range; nothing has been changed
            then.
        """
        try:
            state, groups = self._read(state_dict)
        except ValueError as error:
            raise StateDictError(f"SGD.load_state_dict: {error}") from error
        self.state, self.param_groups = state, groups

    def _read(
        self, state_dict: Mapping[str, Any]
    ) -> tuple[dict[Parameter, dict[str, np.ndarray]], list[dict[str, Any]]]:
        """Return state and groups from a state_dict, or raise ValueError."""
        groups = saved_groups(state_dict)
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
                    f"{shown(saved)}"
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
        new = [{**m, **saved_options(saved)} for m, saved in zip(mine, groups, strict=True)]
        for group in new:
            check_options("param_groups", group)
        return state, new

    def _numbers(self) -> dict[Parameter, int]:
        params = (p for group in self.param_groups for p in group["params"])
        return {parameter: number for number, parameter in enumerate(params)}

    def __repr__(self) -> str:
        lines = ["SGD ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {name}: {group[name]}" for name in sorted(self.defaults)]
        return "\n".join([*lines, ")"])


def _listed(params: Any) -> list[Any]:
    """Return parameters, or a single one, as a list."""
    if isinstance(params, Parameter):
        return [params]
    if not isinstance(params, Iterable):
        raise TypeError(f"SGD: expected an iterable of Parameters, got {type(params).__name__}")
    return list(params)
