"""PyTorch as most people run it."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks import cnn, conv, network
from benchmarks import normalisation as bn
from benchmarks.task import Task
from npbn import torch_reference

Layer = torch.nn.Module
Call = Callable[[Layer, torch.Tensor], torch.Tensor]
Loss = Callable[[Layer, torch.Tensor, torch.Tensor], torch.Tensor]


def set_threads(threads: int) -> None:
    """Limit torch's threads."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(threads)


def call(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """Apply a layer: what torch_compile compiles."""
    return layer(x)


def loss_of(net: Layer, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the loss of a batch: what torch_compile compiles."""
    return torch.nn.functional.cross_entropy(net(x), target)


def batch_norm(problem: bn.Problem, call: Call = call) -> Task:
    """Return torch's layer at work; the input needs a gradient only where there is a backward."""
    setup, mode = problem.setup, problem.mode
    x, g = (torch.from_numpy(array) for array in problem.arrays)
    dtype = {"float32": torch.float32, "float64": torch.float64}[str(setup.dtype)]
    kind = torch.nn.BatchNorm1d if x.ndim == 2 else torch.nn.BatchNorm2d
    layer = kind(setup.num_features, setup.eps, setup.momentum, dtype=dtype)
    layer.load_state_dict(tensors(bn.state_of(setup)), strict=False)
    layer.train(mode != "eval")
    x.requires_grad_(mode == "forward + backward")

    def train() -> torch.Tensor:
        x.grad = layer.weight.grad = layer.bias.grad = None
        y = call(layer, x)
        y.backward(g)
        return y

    def evaluate() -> torch.Tensor:
        with torch.inference_mode():
            return call(layer, x)

    def read(y: torch.Tensor) -> dict[str, np.ndarray]:
        results = {"y": y.detach().numpy()}
        if mode != "eval":
            statistics = ("running_mean", "running_var")
            results |= {name: getattr(layer, name).numpy() for name in statistics}
        if mode == "forward + backward":
            results |= {
                "grad_input": x.grad.numpy(),
                "grad_weight": layer.weight.grad.numpy(),
                "grad_bias": layer.bias.grad.numpy(),
            }
        return results

    runs = {"forward": lambda: call(layer, x), "forward + backward": train, "eval": evaluate}
    return Task(runs[mode], read)


def conv2d(problem: conv.Problem, call: Call = call) -> Task:
    """Return torch's convolution at work; the input needs a gradient where there is a backward."""
    x, weight, g = (torch.from_numpy(array) for array in problem[:3])
    layer = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    layer.load_state_dict({"weight": weight})
    x.requires_grad_(problem.mode != conv.MODES[0])

    def train() -> torch.Tensor:
        x.grad = layer.weight.grad = None
        y = call(layer, x)
        y.backward(g)
        return y

    def read(y: torch.Tensor) -> dict[str, np.ndarray]:
        results = {"y": y.detach().numpy()}
        if x.grad is not None:
            results |= {"grad_input": x.grad.numpy(), "grad_weight": layer.weight.grad.numpy()}
        return results

    forward = problem.mode == conv.MODES[0]
    return Task((lambda: call(layer, x)) if forward else train, read)


def tensors(state: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return a copy of a state for load_state_dict."""
    return {name: torch.tensor(values) for name, values in state.items()}


def network_of(problem: network.Problem) -> torch_reference.MLP:
    """Return the network in its initial state."""
    net = torch_reference.MLP(network.INPUTS, problem.width, network.CLASSES, problem.batch_norm)
    net.load_state_dict(tensors(problem.state), strict=False)
    return net


def train_step(problem: network.Problem, loss_of: Loss = loss_of) -> Task:
    """Return a step of training, with the optimiser as torch has it by default."""
    return step_of(network_of(problem), problem, loss_of)


def cnn_step(problem: cnn.Problem, loss_of: Loss = loss_of) -> Task:
    """Return a step of training of the convolutional network."""
    net = torch_reference.CNN()
    net.load_state_dict(tensors(problem.state), strict=False)
    return step_of(net, problem, loss_of)


def step_of(net: Layer, problem: network.Problem | cnn.Problem, loss_of: Loss) -> Task:
    """Return a step of training of any network."""
    optimizer = torch.optim.SGD(net.parameters(), lr=network.LEARNING_RATE)
    x, target = torch.from_numpy(problem.x), torch.from_numpy(problem.target)

    def run() -> float:
        optimizer.zero_grad()
        loss = loss_of(net, x, target)
        loss.backward()
        optimizer.step()
        return loss.item()

    def read(loss: float) -> dict[str, np.ndarray]:
        state = {name: values.numpy() for name, values in net.state_dict().items()}
        return {**state, "loss": np.float64(loss)}

    return Task(run, read)


def predict(problem: network.Problem, call: Call = call) -> Task:
    """Return a prediction in inference mode."""
    net = network_of(problem).eval()
    x = torch.from_numpy(problem.x)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return call(net, x)

    return Task(run, lambda logits: {"logits": logits.numpy()})
