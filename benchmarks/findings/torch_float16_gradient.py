"""torch rounds a float16 gradient twice when its layout is not the input's."""

import copy

import torch

torch.manual_seed(0)
norm = torch.nn.BatchNorm2d(8)
x, grad = torch.randn(2, 16, 8, 5, 5).half()


def gradient(norm: torch.nn.Module, x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the input."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(norm(x), x, grad)[0]


exact = gradient(copy.deepcopy(norm).double(), x.double(), grad.double())
wrong = []
for layout in (torch.contiguous_format, torch.channels_last):
    found = gradient(norm, x, grad.to(memory_format=layout))
    wrong.append(int((found != exact.half()).sum()))
    print(f"gradient in {layout}: {wrong[-1]} of {x.numel()} are not the nearest float16")
print("confirmed" if wrong[1] > 10 * wrong[0] else "refuted")
