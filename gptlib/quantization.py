"""Quantization: a weight becomes a code, a small integer; the codes of a group share a scale and often a minimum.

`dequantize_q4_1` and `dequantize_q8_0` decode the blocks of a GGUF file, whose format is ggml's: `block_q4_1` and
`block_q8_0` in src/ggml-common.h of github.com/ggml-org/ggml. `quantize` and `quantized` round to any number of bits.

N blocks or groups · G weights per group · C weights per row (C = N * G)
"""

import copy

import torch
from torch import Tensor, nn


def dequantize_q4_1(blocks: Tensor) -> Tensor:
    """scale · code + minimum: uint8 (N, 20) -> float32 (N, 32). Raises ValueError for another shape or dtype.

    Bytes 0-1 are the scale, 2-3 the minimum, both float16. Each of the other 16 holds two codes of 4 bits: the low ones
    are the codes of weights 0 to 15, the high ones those of weights 16 to 31.
    """
    check_blocks(blocks, 20)
    scale, minimum = float16s(blocks[:, :4]).split(1, dim=1)  # each (N, 1)
    codes = torch.cat([blocks[:, 4:] & 0b1111, blocks[:, 4:] >> 4], dim=1)  # (N, 32), from 0 to 15
    return codes * scale + minimum


def dequantize_q8_0(blocks: Tensor) -> Tensor:
    """scale · code: uint8 (N, 34) -> float32 (N, 32). Raises ValueError for another shape or dtype.

    Bytes 0-1 are the scale, a float16. Each of the other 32 is a signed code, from -127 to 127; there is no minimum.
    """
    check_blocks(blocks, 34)
    return blocks[:, 2:].view(torch.int8) * float16s(blocks[:, :2])


def float16s(data: Tensor) -> Tensor:
    """Each two bytes read as a float16: uint8 (N, 2n) -> float32 (N, n)."""
    return data.clone().view(torch.float16).float()  # a copy, since a view needs an even address


def check_blocks(blocks: Tensor, size: int) -> None:
    if blocks.dtype != torch.uint8 or blocks.ndim != 2 or blocks.shape[1] != size:
        raise ValueError(f"blocks {tuple(blocks.shape)} of {blocks.dtype}: give uint8 (N, {size}), one row per block")


def quantize(weights: Tensor, bits: int, group_size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Round to nearest: codes from 0 to 2^bits - 1, which divide the range of each group into equal steps.

    weights (..., C) -> codes (..., N, G) of uint8, scale and minimum (..., N, 1) of float32. Dettmers et al. 2022,
    section 2.1 (zero-point quantization), in groups as in Dettmers et al. 2023, section 2. Raises ValueError unless
    `bits` is from 1 to 8 and C a multiple of `group_size`.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits={bits}: a code is stored in a byte, so give 1 to 8")
    if group_size < 1 or weights.shape[-1] % group_size:
        raise ValueError(f"rows of {weights.shape[-1]} weights cannot be cut into groups of group_size={group_size}")
    groups = weights.float().unflatten(-1, (-1, group_size))  # (..., N, G)
    minimum, maximum = groups.aminmax(dim=-1, keepdim=True)
    scale = (maximum - minimum) / (2**bits - 1)
    codes = ((groups - minimum) / scale).nan_to_num()  # 0 / 0 where all weights of a group are equal
    return codes.round().to(torch.uint8), scale, minimum


def dequantize(codes: Tensor, scale: Tensor, minimum: Tensor) -> Tensor:
    """scale · code + minimum: codes (..., N, G) -> (..., C), each at most half a scale from what `quantize` was given.

    >>> dequantize(*quantize(torch.tensor([0.0, 0.9, 2.2, 3.0]), bits=2, group_size=4))
    tensor([0., 1., 2., 3.])
    """
    return (codes * scale + minimum).flatten(-2)


@torch.no_grad()
def quantized(model: nn.Module, bits: int, group_size: int = 32) -> nn.Module:
    """A copy of `model` with every matrix, embeddings included, quantized and dequantized; raises as `quantize`."""
    model = copy.deepcopy(model)
    for matrix in [parameter for parameter in model.parameters() if parameter.ndim == 2]:
        matrix.copy_(dequantize(*quantize(matrix, bits, group_size)))
    return model
