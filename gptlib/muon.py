"""Muon (Jordan et al. 2024): an optimizer for the matrices inside the blocks of a model, with AdamW for the rest.

`training.make_optimizer` gives all parameters to AdamW, which divides each number of a gradient by its usual size. Muon
treats a matrix as a whole: the singular values of its update are all about equal.

m rows · n columns of a matrix
"""

import torch
from torch import Tensor, nn


def orthogonalize(x: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of x (..., m, n) near 1, with the singular vectors kept: U S Vᵀ -> about U Vᵀ.

    A Newton–Schulz iteration with Jordan et al.'s coefficients: x is divided by its Frobenius norm, and then each step
    replaces every singular value s by 3.4445 s - 4.775 s³ + 2.0315 s⁵. Five steps bring 0.0015…1 to 0.68…1.21.
    """
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x  # the products below are then (m, m), with m <= n
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value exceeds this norm
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for the groups of parameters with `"orthogonal": True`, AdamW (Loshchilov & Hutter 2019) for the others.

    Muon's updates have a root mean square of about 0.2, as is usual for AdamW's, so that both share one learning rate
    (Liu et al. 2025, section 2.2). Raises ValueError when a parameter to be orthogonalized is not a matrix.
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float = 0.95, betas: tuple[float, float] = (0.9, 0.99)):
        defaults = {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "betas": betas, "orthogonal": False}
        super().__init__(groups, defaults)
        for shape in [p.shape for group in self.param_groups if group["orthogonal"] for p in group["params"]]:
            if len(shape) != 2:
                raise ValueError(f"a parameter {tuple(shape)} is not a matrix: put it into a group for AdamW")

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        """Change each parameter that has a gradient: weight decay, then the update."""
        for group in self.param_groups:
            update = muon_update if group["orthogonal"] else adamw_update
            for parameter in [p for p in group["params"] if p.grad is not None]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(group["lr"] * update(parameter.grad, self.state[parameter], group))


def muon_update(gradient: Tensor, state: dict, group: dict) -> Tensor:
    """0.2 √max(m, n) times the orthogonalized running average of the gradients (m, n), with Nesterov momentum."""
    if not state:
        state["average"] = torch.zeros_like(gradient)
    average = state["average"].lerp_(gradient, 1 - group["momentum"])
    return 0.2 * max(gradient.shape) ** 0.5 * orthogonalize(gradient.lerp(average, group["momentum"]))


def adamw_update(gradient: Tensor, state: dict, group: dict) -> Tensor:
    """The running average of the gradients over the root of that of their squares, each without its bias towards 0."""
    if not state:
        state.update(step=0, average=torch.zeros_like(gradient), square=torch.zeros_like(gradient))
    state["step"] += 1
    beta1, beta2 = group["betas"]
    average = state["average"].lerp_(gradient, 1 - beta1) / (1 - beta1 ** state["step"])
    square = state["square"].lerp_(gradient.square(), 1 - beta2) / (1 - beta2 ** state["step"])
    return average / (square.sqrt() + 1e-8)


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float) -> Muon:
    """Muon for every matrix but the embeddings and the output layer, for `train(…, make_optimizer=make_optimizer)`."""
    tables = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    tables |= {parameter for name, parameter in model.named_parameters() if name.endswith("lm_head.weight")}
    matrices = [p for p in model.parameters() if p.ndim == 2 and p not in tables]
    others = [p for p in model.parameters() if p.ndim != 2 or p in tables]
    groups: list[dict] = [{"params": matrices, "orthogonal": True, "weight_decay": weight_decay}]
    groups += [{"params": [p for p in others if p.ndim >= 2], "weight_decay": weight_decay}]
    groups += [{"params": [p for p in others if p.ndim < 2]}]  # vectors do not decay
    return Muon(groups, learning_rate)
