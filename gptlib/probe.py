"""Probe: look inside a model from outside, with hooks. The model itself has no code for it and pays nothing.

B batch · T positions · L layers · H heads · C channels · D channels per head · N parts of the residual stream
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
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
        maps[0]  # (B, H, T, T)
    """

    def weights(core: Attend, inputs: tuple, out: Tensor) -> Tensor:
        return attention_weights(inputs[0].detach(), inputs[1].detach(), core.causal, *inputs[3:])

    with _recording(model, Attend, weights, name) as maps:
        yield maps


@contextmanager
def record(model: nn.Module, kind: type[nn.Module]) -> Iterator[list[Tensor]]:
    """Record the output of every module of this `kind` during the latest forward pass, in the order of the model.

    Raises ValueError when the model has none.

        with probe.record(model, Block) as residual:
            model(idx)
        residual[-1]  # (B, T, C): the residual stream after the last block
    """
    with _recording(model, kind, lambda module, inputs, out: out.detach()) as outputs:
        yield outputs


@contextmanager
def patch(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the output of `module` by `change(output)` in every forward pass inside.

    On leaving, by an error too, the module is as it was.

        with probe.patch(model.blocks[2].attention, torch.zeros_like):
            model(idx)  # without what this layer's attention adds to the residual stream
    """
    hook = module.register_forward_hook(lambda module, inputs, out: change(out))
    try:
        with _eager():
            yield
    finally:
        hook.remove()


@contextmanager
def activations(model: nn.Module, *names: str) -> Iterator[dict[str, Tensor]]:
    """Record the outputs of the modules with these names during the latest forward pass; ValueError if one is missing.

    with probe.activations(model, "blocks.3", "blocks.3.attention.attend") as found:
        model(idx)
    found["blocks.3"]  # (B, T, C): the residual stream after layer 3
    found["blocks.3.attention.attend"]  # (B, H, T, D): the output of each of its heads
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda out: found.update({name: out.detach()})  # returns None: the hook leaves the output as it is

    with ExitStack() as hooks:
        for name in names:
            hooks.enter_context(patch(_module(model, name), keep(name)))
        yield found


@contextmanager
def ablate(model: nn.Module, *heads: tuple[int, int], mean: Tensor | None = None) -> Iterator[None]:
    """Replace the output of these heads, pairs (layer, head), by zeros, or by their rows of `mean` (L, H, D).

    Raises ValueError when the model has no such head.

        with probe.ablate(model, (0, 2), (4, 1), mean=probe.mean_heads(model, idx)):
            model(idx)
    """
    by_layer = defaultdict(list)
    for layer, head in heads:
        _layer(model, layer, head)
        by_layer[layer].append(head)

    def without(layer: int, gone: list[int]) -> Callable[[Tensor], Tensor]:
        def change(out: Tensor) -> Tensor:  # (B, H, T, D)
            out = out.clone()
            out[:, gone] = 0.0 if mean is None else mean[layer, gone][:, None].to(out)
            return out

        return change

    with ExitStack() as hooks:
        for layer, gone in by_layer.items():
            hooks.enter_context(patch(_layer(model, layer).attend, without(layer, gone)))
        yield


@torch.no_grad()
def mean_heads(model: nn.Module, idx: Tensor) -> Tensor:
    """Each head's mean output over all positions of `idx` (B, T) -> (L, H, D): what mean ablation puts in its place."""
    with record(model, Attend) as outputs:
        model(idx)
    return torch.stack([out.mean(dim=(0, -2)) for out in outputs])


@contextmanager
def patch_from(
    model: nn.Module, name: str, source: Tensor, positions: int | Sequence[int] | Tensor | None = None,
    head: int | None = None,
) -> Iterator[None]:  # fmt: skip
    """Put in the output that the module `name` had in another run, `source`, as recorded by `activations`.

    Only at these `positions` where they are given, as indices or as a mask (T,) or (B, T); and only of one `head` of an
    `attend`. Raises ValueError when there is no such module, and in the forward pass when the shapes differ.

        with probe.patch_from(model, "blocks.3", found["blocks.3"], positions=-1):
            model(other_idx)
    """

    def change(out: Tensor) -> Tensor:
        if source.shape != out.shape:
            raise ValueError(f"{name} is {tuple(out.shape)} here, but the source is {tuple(source.shape)}")
        where = torch.ones(out.shape[-2], dtype=torch.bool, device=out.device)  # (T,)
        if positions is not None:
            chosen = torch.as_tensor(positions, device=out.device)
            where = (
                chosen if chosen.dtype == torch.bool else where.logical_not().index_fill(0, chosen % len(where), True)
            )
        where = where[..., None] if out.ndim == 3 or where.ndim == 1 else where[:, None, :, None]  # (…, T, 1)
        if head is not None:
            where = where & (torch.arange(out.shape[1], device=out.device) == head)[:, None, None]  # (…, H, T, 1)
        return torch.where(where, source, out)

    with patch(_module(model, name), change):
        yield


@torch.no_grad()
def residual_parts(model: Any, idx: Tensor) -> tuple[list[str], Tensor]:
    """What is added to the residual stream of a GPT or ModernGPT, in order: N names, parts (N, B, T, C).

    The parts are the embeddings and, layer by layer, each head through its rows of `out_proj` ("L0H2"), the bias of
    `out_proj`, and the feed-forward layer. Their sum is the stream before the final norm, in evaluation mode.
    """
    names, parts, inputs = ["token embedding"], [model.token_embedding(idx)], []
    start = model.blocks[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    try:
        with (
            record(model, Attend) as heads,
            activations(model, *(f"blocks.{layer}.feed_forward" for layer in range(len(model.blocks)))) as forward,
        ):
            model(idx)
    finally:
        start.remove()
    if not torch.equal(inputs[0], parts[0]):
        names.append("position embedding")
        parts.append(inputs[0] - parts[0])
    for layer, (out, added) in enumerate(zip(heads, forward.values(), strict=True)):
        projection, H = model.blocks[layer].attention.out_proj, out.shape[1]
        names += [f"L{layer}H{head}" for head in range(H)]
        parts += (out @ projection.weight.mT.unflatten(0, (H, -1))).unbind(1)  # each (B, T, C)
        if projection.bias is not None:
            names.append(f"L{layer} bias")
            parts.append(projection.bias.expand_as(added))
        names.append(f"L{layer} feed-forward")
        parts.append(added)
    return names, torch.stack(parts)


@torch.no_grad()
def logit_attribution(model: Any, idx: Tensor, tokens: Tensor) -> tuple[list[str], Tensor]:
    """What each of `residual_parts` adds directly to the logit of `tokens` (B, T) at each position: names, (N, B, T).

    The scale of the final norm is held fixed at that of this run; its bias, if any, is the last part. The sum is the
    logit. Raises ValueError when the model caps its logits, which are then no sum.
    """
    if getattr(model.config, "soft_cap", None) is not None:
        raise ValueError("soft_cap makes the logits no sum of parts: build the model with soft_cap=None")
    names, parts = residual_parts(model, idx)
    norm, x, output = model.final_norm, parts.sum(0), model.lm_head.weight[tokens]  # (B, T, C)
    direction = output * norm.weight
    if isinstance(norm, nn.LayerNorm):  # the mean that it subtracts is part of the direction
        x, direction = x - x.mean(-1, keepdim=True), direction - direction.mean(-1, keepdim=True)
    scale = (x.square().mean(-1) + norm.eps).rsqrt()  # (B, T)
    added = (parts * direction).sum(-1) * scale
    if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
        names, added = [*names, "final norm bias"], torch.cat([added, (output @ norm.bias)[None]])
    return names, added


@torch.no_grad()
def ov_circuit(model: nn.Module, layer: int, head: int) -> Tensor:
    """What a head writes for what it reads: x @ ov, for the normalized stream x (..., C) and without biases. (C, C)"""
    attention, (q, k, v) = _projections(model, layer, head)
    return v @ attention.out_proj.weight.mT.unflatten(0, (attention.n_head, -1))[head]


@torch.no_grad()
def qk_circuit(model: Any, layer: int, head: int, distance: int = 0) -> Tensor:
    """The scores of a head as a bilinear form: x @ qk @ y for the normalized streams at query and key. Shape (C, C).

    Without biases and with 1/√D; with the rotation for a key `distance` positions back, where positions are rotary.
    Raises ValueError for `qk_norm`, whose scores are no bilinear form.
    """
    attention, (q, k, v) = _projections(model, layer, head)
    if getattr(attention, "q_norm", None) is not None:
        raise ValueError("qk_norm makes the scores no bilinear form: build the model with qk_norm=False")
    config = getattr(model, "config", None)
    if getattr(config, "position_encoding", None) == "rotary":
        base, position = getattr(config, "rotary_base", BASE), torch.tensor([distance], device=q.device)
        q = rotate(q, *rotation(position, q.shape[-1], base))
    return q @ k.mT / q.shape[-1] ** 0.5


def _projections(model: nn.Module, layer: int, head: int) -> tuple[Any, list[Tensor]]:
    """The attention of a layer, and what projects to the query, key and value of one head, each (C, D)."""
    attention = _layer(model, layer, head)
    H = attention.n_head
    G = getattr(attention, "n_kv_head", H)
    heads = attention.qkv_proj.weight.unflatten(0, (H + 2 * G, -1)).mT  # (H + 2 G, C, D)
    group = head * G // H  # the key and value head that this query head uses
    return attention, [heads[head], heads[H + group], heads[H + G + group]]


def _layer(model: nn.Module, layer: int, head: int = 0) -> Any:
    """The attention of a layer with several heads; ValueError if there is none, or no such head in it."""
    layers: list[Any] = [m for m in model.modules() if hasattr(m, "n_head") and isinstance(m.attend, Attend)]
    if not (0 <= layer < len(layers) and 0 <= head < layers[layer].n_head):
        has = f"{len(layers)} layers" + (f" of {layers[0].n_head} heads" if layers else "")
        raise ValueError(f"no head {head} in layer {layer}: {type(model).__name__} has {has}, counted from 0")
    return layers[layer]


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        known = dict.fromkeys(re.sub(r"\d+", "N", known) for known, _ in model.named_modules())
        raise ValueError(f"there is no module {name!r}: choose from {', '.join(known).lstrip(', ')}") from None


@contextmanager
def _recording(model: nn.Module, kind: type[nn.Module], value: Callable, part: str = "") -> Iterator[list[Tensor]]:
    modules = [module for name, module in model.named_modules() if isinstance(module, kind) and part in name]
    if not modules:
        raise ValueError(
            f"{type(model).__name__} contains no {kind.__name__} to record" + f" in any {part!r}" * bool(part)
        )
    found: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple, named: dict, out: Tensor) -> None:
        if module is modules[0]:
            found.clear()
        found.append(value(module, (*inputs, *named.values()), out))

    hooks = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        with _eager():
            yield found
    finally:
        for one in hooks:
            one.remove()


def _eager():
    """A compiled model would skip new hooks: inside, `torch.compile` has no effect (from PyTorch 2.6 on)."""
    return torch.compiler.set_stance("force_eager") if hasattr(torch.compiler, "set_stance") else nullcontext()
