"""The unknown model of an exercise of notebook 17: `python data/induction/unknown.py` writes unknown.safetensors.

It is trained like the model with two layers in sweep.py, but to predict the letter after the next one. Then one head of
layer 0 that does next to nothing is trained to attend one position back: its detector is misleading on purpose.
"""

from pathlib import Path

import torch
from safetensors.torch import save
from sweep import BATCH, DECAY, RATE, AttentionOnly, H, repeated, weight_at
from torch.nn import functional as F

from gptlib import probe
from gptlib.attention import attention_weights, split_heads
from gptlib.files import atomic_write

FILE, BLOCK, V, AHEAD, STEPS, DECOY_STEPS = Path(__file__).with_name("unknown.safetensors"), 16, 26, 2, 300, 200


def layer_0_weights(model, idx):
    """The attention weights of layer 0, with gradients: (B, H, T, T)"""
    x = model.norm(model.token_embedding(idx) + model.position_embedding.weight[: idx.shape[1]])
    q, k, _ = (split_heads(part, H) for part in model.layers[0].qkv_proj(x).chunk(3, dim=-1))
    return attention_weights(q, k)


def swap_heads(attention, order):
    """Give the heads of an attention layer this order."""
    D = attention.out_proj.in_features // H
    rows = (torch.tensor(order)[:, None] * D + torch.arange(D)).flatten()
    three = torch.cat([rows, rows + H * D, rows + 2 * H * D])
    attention.qkv_proj.weight.data = attention.qkv_proj.weight.data[three]
    attention.qkv_proj.bias.data = attention.qkv_proj.bias.data[three]
    attention.out_proj.weight.data = attention.out_proj.weight.data[:, rows]


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AttentionOnly(2, BLOCK, V)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=DECAY)
    for _ in range(STEPS):
        idx, period = repeated(BATCH, BLOCK, V)
        counts = torch.arange(AHEAD, 2 * BLOCK) >= period + AHEAD
        loss = F.cross_entropy(model(idx[:, :-AHEAD])[counts], idx[:, AHEAD:][counts])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = torch.randint(V, (128, BLOCK)).repeat(1, 2)
    with torch.no_grad():
        weights = layer_0_weights(model, test)
        necessary = weight_at(weights[..., :BLOCK, :BLOCK], AHEAD, AHEAD).argmax().item()
        losses = []
        for head in range(H):
            with probe.ablate(model, (0, head)):
                losses.append(F.cross_entropy(model(test)[:, BLOCK:-AHEAD].mT, test[:, BLOCK + AHEAD :]).item())
    decoy = min(range(H), key=losses.__getitem__)
    projection = model.layers[0].qkv_proj
    D = projection.in_features // H
    rows = torch.zeros(3 * H * D, dtype=torch.bool)
    rows[decoy * D : (decoy + 1) * D] = rows[H * D + decoy * D : H * D + (decoy + 1) * D] = True  # queries and keys
    optimizer = torch.optim.AdamW(projection.parameters(), 3e-3, weight_decay=0.0)
    for _ in range(DECOY_STEPS):
        weights = layer_0_weights(model, repeated(BATCH, BLOCK, V)[0])
        loss = -weights[:, decoy].diagonal(-1, dim1=-2, dim2=-1).log().mean()
        optimizer.zero_grad()
        loss.backward()
        projection.weight.grad[~rows] = projection.bias.grad[~rows] = 0.0
        optimizer.step()
    others = [head for head in range(H) if head not in (decoy, necessary)]
    swap_heads(model.layers[0], [decoy, *others, necessary])
    content = save({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()})
    atomic_write(FILE, lambda path: path.write_bytes(content))
    print(f"necessary {necessary} -> 3, decoy {decoy} -> 0, losses without each {losses}")


if __name__ == "__main__":
    main()
