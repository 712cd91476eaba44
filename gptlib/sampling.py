"""Sampling: text drawn from a model, one token after the other.

B batch · T positions · V vocabulary
"""

import torch
from torch import Tensor, nn


@torch.no_grad()
def generate(model: nn.Module, idx: Tensor, max_new_tokens: int, generator: torch.Generator | None = None) -> Tensor:
    """Continue `idx` by `max_new_tokens` tokens, each drawn from the model's own distribution.

    idx (B, T) -> (B, T + max_new_tokens). The model sees at most its context length of the latest tokens, if it has
    one. `generator`, on the model's device, makes the draw repeatable. Dropout is off while generating.
    Raises ValueError when `idx` is not (B, T) with at least one token to continue.
    """
    if idx.ndim != 2 or idx.shape[1] == 0:
        raise ValueError(
            f"idx has shape {tuple(idx.shape)}: give (B, T) with at least one token, "
            "such as torch.tensor([tokenizer.encode(prompt)])"
        )
    context_length = model.config.context_length if hasattr(model, "config") else None
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            seen = idx if context_length is None else idx[:, -context_length:]
            probabilities = model(seen)[:, -1].softmax(dim=-1)  # (B, V): what may follow the last position
            next_idx = torch.multinomial(probabilities, 1, generator=generator)  # (B, 1)
            idx = torch.cat([idx, next_idx], dim=1)
    finally:
        model.train(was_training)
    return idx
