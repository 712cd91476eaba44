"""Probe: look inside a model from outside, with hooks. The model itself has no code for it and pays nothing.

B batch · T positions · L layers · H heads · C channels · D channels per head · N parts of the residual stream
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gptlib.attention import Attend, attention_weights
from gptlib.positions import BASE, rotate, rotation


@contextmanager
def attention(model: nn.Module, name: str = "") -> Iterator[list[Tensor]]:
    """Record the attention weights of every layer during the latest forward pass of `model`.

    Yields a list that the forward pass fills: one tensor (B, H, T, T) per layer, first layer first; (B, T, T) for a
    single `Head`; (B, H, T, S + T) after a cache of S positions. They are computed from the queries and keys, without
    dropout. Only layers with `name` in their name in the model, such as "cross_attention". ValueError if there is none.

        with probe.attention(model) as maps:
            model(idx)
    """

    def weights(core: Attend, inputs: tuple, out: Tensor) -> Tensor:
        return attention_weights(inputs[0].detach(), inputs[1].detach(), core.causal, *inputs[3:])

    with _recording(model, Attend, weights, name) as maps:
        yield maps


@contextmanager
def record(model: nn.Module, kind: type[nn.Module]) -> Iterator[list[Tensor]]:
    """Record the output of every module of this `kind` during the latest forward pass, in the order of the model.

    ValueError if there is none. Of each `Block`, for instance: the residual stream (B, T, C) after that layer.
    """
    with _recording(model, kind, lambda module, inputs, out: out.detach()) as outputs:
        yield outputs


@contextmanager
def patch(module: nn.Module, change: Callable[[Tensor], Any]) -> Iterator[None]:
    """Replace the output of `module` by `change(output)` in every forward pass inside; afterwards it is as it was.

    with probe.patch(model.blocks[2].attention, torch.zeros_like):
        model(idx)  # without what this layer's attention adds to the residual stream
    """
    with module.register_forward_hook(lambda module, inputs, out: change(out)), _eager():
        yield


@contextmanager
def activations(model: nn.Module, *names: str) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the modules with these names during the latest forward pass; ValueError if one is missing.

    "blocks.3" gives the residual stream (B, T, C) after layer 3, "blocks.3.attention.attend" its heads (B, H, T, D).
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name in names:  # `update` returns None: such a hook leaves the output as it is
            keep = partial(lambda name, out: found.update({name: out.detach()}), name)
            hooks.enter_context(patch(_module(model, name), keep))
        yield found


@contextmanager
def ablate(model: nn.Module, *heads: tuple[int, int], mean: Tensor | None = None) -> Iterator[None]:
    """Replace the output of these heads (layer, head) by zeros, or by their rows of `mean` (L, H, D).

    ValueError if one is missing. The rows can be those of `mean_heads`.
    """

    def change(layer: int, head: int, out: Tensor) -> Tensor:  # (B, H, T, D)
        this = torch.arange(out.shape[1], device=out.device) == head  # (H,)
        return torch.where(this[:, None, None], 0.0 if mean is None else mean[layer, head], out)

    with ExitStack() as hooks:
        for layer, head in heads:
            hooks.enter_context(patch(_head(model, layer, head)[0].attend, partial(change, layer, head)))
        yield


@torch.no_grad()
def mean_heads(model: nn.Module, idx: Tensor) -> Tensor:
    """Each head's mean output over the positions of `idx` (B, T) -> (L, H, D): what mean ablation puts in its place."""
    with record(model, Attend) as outputs:
        model(idx)
    return torch.stack([out.mean(dim=(0, -2)) for out in outputs])


@contextmanager
def patch_from(model: nn.Module, name: str, source: Tensor, positions=None, head=None) -> Iterator[None]:
    """Put in the output `source` that the module `name` had in another run, as `activations` recorded it.

    Only at these `positions`, indices or a mask (T,) or (B, T); only of one `head` of an `attend`. Raises ValueError
    when there is no such module, and in the forward pass when the shapes differ.
    """

    def change(out: Tensor) -> Tensor:
        if source.shape != out.shape or (head is not None and out.ndim < 4):
            raise ValueError(f"{name} is {tuple(out.shape)} here, and the source {tuple(source.shape)}, {head=}")
        out = out.clone()
        new, old = ((x if head is None else x[:, head]).movedim(-2, 1) for x in (out, source))  # views (B, T, ...)
        at = ... if positions is None else positions if getattr(positions, "ndim", 1) == 2 else (slice(None), positions)
        new[at] = old[at]
        return out

    with patch(_module(model, name), change):
        yield


@torch.no_grad()
def residual_parts(model: Any, idx: Tensor) -> tuple[list[str], Tensor]:
    """What is added to the residual stream of a GPT or ModernGPT for idx (B, T), in order: N names, parts (N, B, T, C).

    The embeddings and, layer by layer, each head through its slice of `out_proj` ("L0H2"), the bias of `out_proj` and
    the feed-forward layer. In evaluation mode, their sum is the stream before the final norm.
    """
    wanted = re.compile(r"token_embedding|dropout|blocks\.\d+\.(attention\.attend|feed_forward)")
    with activations(model, *filter(wanted.fullmatch, dict(model.named_modules()))) as found:
        model(idx)
    parts = {"token embedding": found["token_embedding"]}  # (B, T, C)
    if model.config.position_encoding in ("learned", "sinusoidal"):
        parts["position embedding"] = found["dropout"] - found["token_embedding"]
    for layer, block in enumerate(model.blocks):
        heads, projection = found[f"blocks.{layer}.attention.attend"], block.attention.out_proj
        for head, rows in enumerate(projection.weight.mT.unflatten(0, (heads.shape[1], -1))):  # (D, C)
            parts[f"L{layer}H{head}"] = heads[:, head] @ rows
        if projection.bias is not None:
            parts[f"L{layer} bias"] = projection.bias.expand_as(found["token_embedding"])
        parts[f"L{layer} feed-forward"] = found[f"blocks.{layer}.feed_forward"]
    return list(parts), torch.stack(list(parts.values()))


@torch.no_grad()
def logit_attribution(model: Any, idx: Tensor, tokens: Tensor) -> tuple[list[str], Tensor]:
    """What each of `residual_parts` adds directly to the logit of `tokens` (B, T) at each position: names, (N, B, T).

    The scale of the final norm is held fixed at that of this run, and its bias is the last part: the sum is the logit.
    Raises ValueError when the model caps its logits, which are then no sum.
    """
    if getattr(model.config, "soft_cap", None) is not None:
        raise ValueError("soft_cap makes the logits no sum of parts: build the model with soft_cap=None")
    names, parts = residual_parts(model, idx)
    norm, x, output = model.final_norm, parts.sum(0), model.lm_head.weight[tokens]  # (B, T, C)
    direction, bias = output * norm.weight, getattr(norm, "bias", None)
    if isinstance(norm, nn.LayerNorm):  # it subtracts the mean
        x, direction = (y - y.mean(-1, keepdim=True) for y in (x, direction))
    added = torch.einsum("nbtc, btc -> nbt", parts, direction) * (x.square().mean(-1) + norm.eps).rsqrt()
    return (names, added) if bias is None else ([*names, "final norm bias"], torch.cat([added, (output @ bias)[None]]))


@torch.no_grad()
def ov_circuit(model: nn.Module, layer: int, head: int) -> Tensor:
    """What a head writes where it attends, as a matrix (C, C): x @ ov for a normalized stream x, without biases."""
    attention, _, _, value = _head(model, layer, head)
    return value @ attention.out_proj.weight.mT.unflatten(0, (attention.n_head, -1))[head]


@torch.no_grad()
def qk_circuit(model: Any, layer: int, head: int, distance: int = 0) -> Tensor:
    """A head's scores as a matrix (C, C): x @ qk @ y for normalized streams x at the query and y at the key.

    Without biases; with 1/√D and, where positions are rotary, the rotation for a key `distance` positions back. Raises
    ValueError for `qk_norm`, whose scores are not bilinear.
    """
    attention, q, k, _ = _head(model, layer, head)
    if getattr(attention, "q_norm", None) is not None:
        raise ValueError("with qk_norm, no matrix gives the scores: build the model with qk_norm=False")
    config = getattr(model, "config", None)
    if getattr(config, "position_encoding", None) == "rotary":
        position, base = torch.tensor([distance], device=q.device), getattr(config, "rotary_base", BASE)
        q = rotate(q, *rotation(position, q.shape[-1], base))
    return q @ k.mT / q.shape[-1] ** 0.5


def _head(model: nn.Module, layer: int, head: int) -> tuple[Any, Tensor, Tensor, Tensor]:
    """The attention of a layer, and the matrices (C, D) to the query, key and value of one head; ValueError if none."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "n_head")]
    if not (0 <= layer < len(layers) and 0 <= head < layers[layer].n_head):
        raise ValueError(f"no head {head} in layer {layer}, of {[x.n_head for x in layers]} heads in the layers")
    H, G = layers[layer].n_head, getattr(layers[layer], "n_kv_head", layers[layer].n_head)
    q, k, v = layers[layer].qkv_proj.weight.unflatten(0, (H + 2 * G, -1)).mT.split([H, G, G])  # each (..., C, D)
    return layers[layer], q[head], k[head * G // H], v[head * G // H]


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = dict.fromkeys(re.sub(r"\.\d+", ".N", known) for known, _ in model.named_modules() if known)
        raise ValueError(f"no module is called {name!r}: choose from {', '.join(known)}") from None


@contextmanager
def _recording(model: nn.Module, kind: type[nn.Module], value: Callable, part: str = "") -> Iterator[list[Tensor]]:
    modules = [module for name, module in model.named_modules() if isinstance(module, kind) and part in name]
    if not modules:
        raise ValueError(f"{type(model).__name__} contains no {kind.__name__}" + f" in any {part!r}" * bool(part))
    found: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple, named: dict, out: Tensor) -> None:
        if module is modules[0]:
            found.clear()
        found.append(value(module, (*inputs, *named.values()), out))

    with _eager(), ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(hook, with_kwargs=True))
        yield found


def _eager():
    """A compiled model would skip new hooks: inside, `torch.compile` has no effect (from PyTorch 2.6 on)."""
    return torch.compiler.set_stance("force_eager") if hasattr(torch.compiler, "set_stance") else nullcontext()
