"""Quantization: weights stored as small integers, the codes, which share a scale (and a minimum) in groups.

`dequantize_q4_1` and `dequantize_q8_0` decode the blocks of a GGUF file, 32 weights each, into float32. The format is
ggml's: github.com/ggml-org/ggml, `block_q4_1` and `block_q8_0` in src/ggml-common.h.

N blocks
"""

import torch
from torch import Tensor


def dequantize_q4_1(blocks: Tensor) -> Tensor:
    """scale · code + minimum: uint8 (N, 20) -> float32 (N, 32). Raises ValueError for another shape or dtype.

    Bytes 0-1 are the scale, 2-3 the minimum, both float16. Sixteen bytes hold two codes of 4 bits each: the low ones
    are those of the weights 0 to 15, the high ones those of 16 to 31.
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
    """Pairs of bytes read as float16 numbers: uint8 (N, 2n) -> float32 (N, n)."""
    return data.clone().view(torch.float16).float()  # a copy, since a view needs an even address


def check_blocks(blocks: Tensor, size: int) -> None:
    if blocks.dtype != torch.uint8 or blocks.ndim != 2 or blocks.shape[1] != size:
        raise ValueError(f"blocks {tuple(blocks.shape)} of {blocks.dtype}: give uint8 (N, {size}), one row per block")
