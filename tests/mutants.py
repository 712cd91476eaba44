"""Do the tests notice? Faults that the tests of a GPT course must notice, put into a copy of the package one by one.

    python tests/mutants.py               all of them
    python tests/mutants.py --only mask   those with this word in their name, or in their file's

A fault is an edit, {file: {old: {new: name}}}: `old` stands exactly once in the file, and `new` replaces it. The tests
of the edited module must then fail. Notebooks, pictures and exercises are left out on purpose.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The tests of a module are its doctests, tests/test_<module>.py, and those of these modules.
MORE_TESTS = {
    "attention": ["cache", "encoder_decoder", "model", "positions", "probe"],
    "bpe": ["tokenizers", "shards"],
    "gpt2": ["pretrained"],
    "model": ["cache"],
    "documents": ["shards"],
    "checkpoint": ["pretrain"],
    "positions": ["model"],
    "settings": ["pretrain"],
    "pretrained": ["gpt2", "modern"],
    "sampling": ["training"],
    "training": ["checkpoint", "muon"],
}

FAULTS = {
    "data.py": {
        "ids[:n_train].long(), ids[n_train:].long()": {
            "ids[:n_train].long(), ids[: len(ids) - n_train].long()": "validation set taken from the training set",
        },
        "batch[:, :-1], batch[:, 1:]": {"batch[:, :-1], batch[:, :-1]": "targets not shifted in a batch"},
        "(batch_size,), generator=generator)": {"(batch_size,))": "generator ignored by batches"},
        "torch.randint(len(windows)": {"torch.randint(len(windows) - 1": "last window never sampled"},
    },
    "tokenizers.py": {
        "[self.unknown, *by_count][:max_vocab]": {
            "[self.unknown, *by_count[:max_vocab]]": "unknown token not counted in the vocabulary size",
        },
        "self._ids.get(word, 0)": {"self._ids.get(word, 1)": "unknown word becomes another word"},
    },
    "bpe.py": {
        "counts[neighbors] += freqs[i]": {
            "counts[neighbors] += 1": "new pairs count once per word, not per occurrence"
        },
        "counts[ids[start], ids[following[start]]] -= freqs[i]": {"pass": "pairs that a merge used up still count"},
        "len(merges) < n_merges": {"len(merges) <= n_merges": "one merge too many"},
        "if ranks.get((ids[i], ids[j])) != rank:": {
            "if (ids[i], ids[j]) not in ranks:": "outdated merge applied",
        },
        r"|\s+(?!\S)|\s+": {r"|\s+": "last space of a run not left to the next word"},
        r'".*\S(?=[ \n])"': {r'".*(?=[ \n])"': "text cut inside a run of spaces"},
        "if part in allowed:": {"if part in self._special:": "special token read where it is not allowed"},
    },
    "ngram.py": {
        "V if self.add_one else 0": {"1 if self.add_one else 0": "add-one smoothing that does not sum to 1"},
        "(counts - discount)": {"counts": "counts not discounted"},
        "grams = np.unique(ids[: -k - 1] * (n_codes * V) + grams[1:]) % (n_codes * V)": {
            "pass": "short contexts count occurrences, not left neighbors",
        },
        "-torch.from_numpy(probs).log()": {"-torch.from_numpy(probs).log2()": "n-gram loss in bits, not in nats"},
    },
    "attention.py": {
        ".tril(S - T)": {
            ".tril(S - T + 1)": "mask one position too late",
            ".tril(S - T - 1)": "mask one position too early",
            ".tril()": "mask ignores cached positions",
        },
        " / q.shape[-1] ** 0.5": {
            "": "scale left out of the weights",
            " / q.shape[-1]": "scale by D, not by its root, in the weights",
        },
        "scores.softmax(dim=-1)": {"scores.softmax(dim=-2)": "softmax over the queries"},
        "    if causal:\n": {"    if False:\n": "no mask in the weights"},
        "is_causal=square)": {
            "is_causal=False)": "no mask in the kernel",
            "is_causal=square, scale=1.0)": "scale left out of the kernel",
        },
        "if self.causal and T > 1 and not square:": {
            "if False:": "no mask when several tokens follow a cache",
        },
        "masked_fill(~mask, -torch.inf)": {"masked_fill(mask, -torch.inf)": "mask the wrong way round in the weights"},
        "attend(q, k, v, mask)": {"attend(q, k, v)": "mask of the caller ignored"},
        "self.dropout * self.training": {"self.dropout": "dropout on attention weights in evaluation"},
        "self.values[..., start:end, :] = k, v": {
            "self.values[..., start:end, :] = k, k": "cache stores keys as values",
        },
        "self.length = end": {"self.length = start + 1": "cache advances by one position for every call"},
        "x.unflatten(-1, (n_head, -1)).transpose(-3, -2)": {
            "x.reshape(*x.shape[:-2], n_head, x.shape[-2], -1)": "heads split without the transpose",
        },
        "x.transpose(-3, -2).flatten(-2)": {
            "x.reshape(*x.shape[:-3], x.shape[-2], -1)": "heads merged without the transpose",
        },
        "rotate(q, *rotation), rotate(k, *rotation)": {"rotate(q, *rotation), k": "keys not rotated"},
        "self.out_proj(merge_heads(heads))": {"merge_heads(heads)": "output projection left out"},
        "y if self.bias is None else y + self.bias": {"y": "bias lost in decoding"},
    },
    "positions.py": {
        "(-2 * pair / channels)": {"(-pair / channels)": "frequencies fall half as fast"},
        "[a.sin(), a.cos()]": {"[a.cos(), a.sin()]": "sine and cosine swapped"},
        "[first * cos - second * sin, first * sin + second * cos]": {
            "[first * cos + second * sin, second * cos - first * sin]": "rotation the other way",
        },
        "x.chunk(2, dim=-1)": {"x[..., ::2], x[..., 1::2]": "rotary pairs neighboring channels"},
    },
    "model.py": {
        "x = x + self.attention(self.norm1(x), rotation=rotation, cache=cache)": {
            "x = self.attention(self.norm1(x), rotation=rotation, cache=cache)": "no skip connection at attention",
            "x = self.norm1(x + self.attention(x, rotation=rotation, cache=cache))": "post-norm at attention",
        },
        "x = x + self.feed_forward(self.norm2(x))": {
            "x = self.feed_forward(self.norm2(x))": "no skip connection at the feed-forward layer",
            "x = self.norm2(x + self.feed_forward(x))": "post-norm at the feed-forward layer",
        },
        'nn.GELU(approximate="tanh")': {"nn.GELU()": "exact GELU", "nn.ReLU()": "ReLU for GELU"},
        "self.lm_head(self.final_norm(x))": {"self.lm_head(x)": "final norm left out"},
        "self.lm_head.weight = self.token_embedding.weight": {"pass": "output layer not tied"},
        "x = x + self.position_embedding(positions)": {"pass": "position embedding left out"},
        "torch.arange(start, start + idx.shape[-1]": {
            "torch.arange(0, idx.shape[-1]": "positions start again after a cache",
        },
        "0.02 / (2 * n_layer) ** 0.5 if residual else 0.02": {
            "0.02": "initialization of the residual projections not scaled",
        },
        "x = self.dropout(x)": {"pass": "dropout on the embeddings left out"},
    },
    "modern.py": {
        "wide.square().mean(-1, keepdim=True)": {
            "wide.var(-1, keepdim=True, correction=0)": "RMSNorm divides by the standard deviation",
            "x.square().mean(-1, keepdim=True)": "RMSNorm squares in half precision",
        },
        "+ self.eps).rsqrt()": {").rsqrt()": "eps left out of RMSNorm"},
        ".to(x.dtype) * self.weight": {".to(x.dtype)": "scale of RMSNorm left out"},
        "x[:, :, None].expand(-1, -1, n, -1, -1)": {
            "x[:, None].expand(-1, n, -1, -1, -1)": "every n-th query head shares a key head",
        },
        "q, k = self.q_norm(q), self.k_norm(k)": {"q, k = self.q_norm(q), k": "keys not normalized"},
        "q, k = rotate(q, *rotation), rotate(k, *rotation)": {"pass": "no rotary positions"},
        "F.silu(self.gate_proj(x)) * self.up_proj(x)": {
            "self.gate_proj(x) * F.silu(self.up_proj(x))": "gate and up-projection swapped",
            "F.gelu(self.gate_proj(x)) * self.up_proj(x)": "GELU for SiLU in the gate",
        },
        "F.relu(self.up_proj(x)).square()": {"F.relu(self.up_proj(x))": "ReLU not squared"},
        "x = x + self.attention(self.norm1(x), rotation=rotation, cache=cache)": {
            "x = x + self.attention(x, rotation=rotation, cache=cache)": "no norm before attention",
        },
        "x = x + self.feed_forward(self.norm2(x))": {"x = x + self.feed_forward(self.norm1(x))": "norm of attention"},
        "c.n_embd // c.n_head, c.rotary_base, dtype)": {"c.n_embd // c.n_head, dtype=dtype)": "rotary base ignored"},
        "        if c.tied:\n": {"        if True:\n": "output layer always tied"},
        "torch.arange(start, start +": {"torch.arange(0,": "positions start again after a cache in the modern model"},
        "self.lm_head(self.final_norm(x))": {"self.lm_head(x)": "final norm of the modern model left out"},
        "c.soft_cap * (logits": {"(logits": "soft cap does not scale back"},
        "shape = (batch_size, c.n_kv_head,": {"shape = (batch_size, c.n_head,": "cache with all query heads"},
        "if self.n_head % self.n_kv_head:": {"if False:": "heads that cannot be grouped accepted"},
    },
    "smollm2.py": {
        "halves(q), halves(k), v]": {
            "q, k, v]": "pairs of GGUF's rotation kept",
            "halves(q), halves(k), halves(v)]": "values permuted",
        },
        "math.ceil(file.tell() / align) * align": {"file.tell()": "tensors not aligned"},
        "for _ in range(n_dims)][::-1]": {"for _ in range(n_dims)]": "shapes the other way round"},
        'else weight("output")': {'else weight("token_embd")': "output layer of the file ignored"},
        '[0] == "N")': {'[0] == "X")': "digits not split"},
        "if i is not None]": {"]": "no id for a byte becomes None"},
        "path = path or find_file()": {"path = find_file()": "the path of the caller ignored"},
        "if fields[key] != known:": {"if False:": "a file of another kind accepted"},
    },
    "stories.py": {
        "read_verified(path, FILE[1])": {"pass": "the shipped file not verified"},
        "-self.scores[token], -len(token)": {
            "-self.scores[token], len(token)": "runs of spaces merged by pairs, not from the left",
            "self.scores[token], -len(token)": "lowest score merged first",
        },
        "SPACE + part.replace": {"part.replace": "no space before a text"},
        'token.removeprefix(b" ")': {"token": "the space before a text decoded"},
        "start = token in special": {"start = False": "the space after a special token decoded"},
        'else c.encode("utf-8")': {'else "?".encode()': "unknown character becomes a question mark"},
        "if part in allowed:": {"if part in self._special:": "special token read where it is not allowed"},
        "int(token[3:5], 16)": {"int(token[3:5], 10)": "bytes of the file read as decimal numbers"},
    },
    "sampling.py": {
        "logits < logits.topk": {"logits <= logits.topk": "top-k drops the k-th token"},
        "ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - p": {
            "ascending.softmax(dim=-1).flip(-1).cumsum(dim=-1).flip(-1) > p": "top-p drops the token that reaches p",
        },
        "removed.scatter(-1, order, removed)": {"removed": "top-p removes tokens in sorted order"},
        "/ max(temperature, 1e-30)": {"* max(temperature, 1e-30)": "temperature multiplies"},
        "probs, 1, generator=generator)": {"probs, 1)": "generator ignored by generation"},
        "    model.eval()\n": {"    pass\n": "dropout active in evaluation and generation"},
        "model.train(training)": {"pass": "dropout stays off after evaluation"},
        "layer.length = 0": {"pass": "stale cache when the window slides"},
        "new = new.masked_fill(done, stop)": {"pass": "finished rows go on after the stop token"},
    },
    "encoder_decoder.py": {
        "self.norm1(x), mask=mask)": {"self.norm1(x))": "padding of the source attended to by the encoder"},
        "self.norm2(x), memory, mask=mask)": {
            "self.norm2(x), memory)": "padding of the source attended to by the decoder",
            "self.norm2(x), mask=mask)": "no cross-attention",
        },
        "self.self_attention = MultiHeadAttention(n_embd, n_head, dropout)": {
            "self.self_attention = MultiHeadAttention(n_embd, n_head, dropout, causal=False)": "decoder without mask",
        },
        "x = x + self.self_attention(self.norm1(x))\n": {
            "x = self.self_attention(self.norm1(x))\n": "no skip connection"
        },
        "self.feed_forward(self.norm3(x))": {"self.feed_forward(self.norm2(x))": "norm of another sublayer"},
        "return self.final_norm(x)": {"return x": "no norm after the blocks"},
        "Decoder(config, self.encoder.token_embedding)": {"Decoder(config)": "two token embeddings"},
        "(ids, padding_mask(ids, self.config.pad))": {"(ids, padding_mask(ids))": "id of padding ignored"},
        " and not mask.any(dim=1).all()": {" and False": "a source without a token accepted"},
        "[model.config.pad, model.config.start]] = -torch.inf": {
            "[model.config.pad, model.config.start]] += 0": "padding and start may be chosen",
        },
        "log_probs[done, model.config.pad] = 0.0": {"log_probs[done, 2] = 0.0": "end repeated after the end"},
        "[:, -1].log_softmax(dim=-1)": {"[:, -1]": "beams scored by logits"},
        "(scores[:, None] + log_probs)": {"log_probs": "beams scored by their last token"},
        "target[row], token": {"target[: len(row)], token": "beams lose their beginnings"},
    },
    "training.py": {
        "ids[1 : n + 1].view": {"ids[:n].view": "targets not shifted in evaluation"},
        "learning_rate * (step + 1) / warmup_steps": {"learning_rate * step / warmup_steps": "warm-up one step late"},
        '"weight_decay": 0.0}': {'"weight_decay": weight_decay}': "weight decay on biases"},
        "clip_grad_norm_(model.parameters(), clip)": {
            "clip_grad_norm_(model.parameters(), 1e9)": "gradient not clipped",
        },
        "            run.optimizer.zero_grad()\n": {"": "gradients of all steps add up"},
        "batch_size, T, run.generator)": {"batch_size, T)": "seed ignored by training"},
        "history.val.append((step, evaluate(model, val_ids, T)))": {
            "history.val.append((step, evaluate(model, train_ids, T)))": "training loss shown as validation loss",
        },
        "if not (loss + norm).isfinite():": {"if not loss.isfinite():": "NaN gradient reaches the parameters"},
        "range(len(history.train), steps)": {"range(steps)": "resumed run starts from step 0"},
        ', "optimizer": type(optimizer).__name__': {"": "another optimizer continues a run"},
    },
    "muon.py": {
        "-4.775 * a": {"-4.775": "coefficient of the cube not applied to a matrix"},
        "tall = x.shape[-2] > x.shape[-1]": {"tall = x.shape[-2] < x.shape[-1]": "the larger product computed"},
        "return x.mT if tall else x": {"return x": "tall matrix returned as a wide one"},
        ".clamp(min=1e-7)": {"": "zero gradient divided by its norm"},
        'orthogonalize(gradient.lerp(average, group["momentum"]))': {
            "orthogonalize(average)": "no Nesterov momentum",
            "orthogonalize(gradient)": "no momentum",
        },
        "0.2 * max(gradient.shape)": {"0.2 * min(gradient.shape)": "update scaled by the smaller side"},
        'parameter.mul_(1 - group["lr"] * group["weight_decay"])': {
            'parameter.mul_(1 - group["weight_decay"])': "weight decay without the learning rate",
        },
        " if p.grad is not None]": {" if p.requires_grad]": "parameter without a gradient not left alone"},
        '(1 - beta2 ** state["step"])': {"1": "squares keep their bias towards 0"},
        "if p.ndim == 2 and p not in tables]": {"if p.ndim == 2]": "embeddings orthogonalized"},
        "    tables |= {": {"    _ = {": "output layer orthogonalized"},
        "if p.ndim < 2]}]  #": {'if p.ndim < 2], "weight_decay": weight_decay}]  #': "vectors decay"},
    },
    "scaling.py": {
        "return 6 * products + 12 *": {
            "return 2 * products + 12 *": "backward pass of the products not counted",
            "return 6 * products + 6 *": "half of attention's products counted",
        },
        "blocks + config.vocab_size * config.n_embd": {"blocks": "output layer not counted"},
        "return 2 * size**3 / min(seconds)": {"return 2 * size**3 / max(seconds)": "slowest product taken as the peak"},
        '"H100 PCIe": 756e12, "H100": 989e12': {'"H100": 989e12, "H100 PCIe": 756e12': "one card taken for another"},
        "operand = 2 if mixed_precision else 4": {"operand = 4": "autocast saves no memory"},
        "config.n_layer * 4 * C + max": {"4 * C + max": "the input of one block kept, not of all"},
        "max(0, block - 4 * C - output - temporary)": {
            "0": "block that is computed again left out",
            "block - 4 * C - output - temporary": "large output layer saves memory",
        },
        '"moments": 8 * parameters': {'"moments": 4 * parameters': "one moment per parameter"},
    },
    "settings.py": {
        "c.batch_size % (processes * run.micro_batch)": {"c.batch_size % processes": "batch cut into unequal parts"},
        "if model.vocab_size < V:": {"if False:": "model without room for the vocabulary"},
        " or type(value) is bool is not wanted": {"": "true taken for a number"},
        '"training": asdict(self.training)': {'"training": {}': "run continued with other settings"},
        '"manifest": hashlib.sha256(manifest).hexdigest()': {'"manifest": ""': "run continued with other shards"},
        "if type(value) in (int, float) and not value >= least:": {"if False:": "negative settings accepted"},
        'c.optimizer == "muon" and run.parallel == "fsdp"': {"False": "Muon on parts of matrices"},
    },
    "pretrain.py": {
        "(step * self.size + self.rank) * self.share": {
            "(step + self.rank) * self.share": "steps of several processes overlap",
            "step * self.size * self.share": "every process reads the same windows",
        },
        "n, seed, i // n)[i % n]": {"n, seed, 0)[i % n]": "every epoch in the same order"},
        "part = part * size / self.share": {"part = part * size": "mean losses added up"},
        "{seed} {step} {self.rank}": {
            "{seed} {self.rank}": "same dropout in every step",
            "{seed} {step}": "same dropout in every process",
        },
        "            self.optimizer.step()\n            self.optimizer.zero_grad()\n": {
            "            self.optimizer.step()\n": "gradients of all steps add up in pretraining",
        },
        ".sum().backward()": {".sum()": "DDP adds in another order in its first step"},
        "int((y >= 0).sum())": {"y.numel()": "targets that fill up a row count"},
        "rows = n + len(tails)": {"rows = n": "ends of shards not evaluated"},
        "size * self.rank + rows, size * self.size)": {
            "size * self.rank + rows, size)": "predictions count in several processes",
        },
        "check_identity(self.identity, state": {"(lambda *_: 0)(0, state": "checkpoint of another run accepted"},
        ' and int(row.split(",")[0]) <= step]': {"]": "log not cut back"},
        'row.count(",") == COLUMNS.count(",") and ': {"": "partial row of the log kept"},
        "[: -self.config.run.keep]": {"[:-1]": "only the newest checkpoint kept"},
        "[: len(parameter)]": {"": "rows that fill up the vocabulary saved"},
        "if any(total(not all(": {"if False and any(total(not all(": "parameters that are not finite saved"},
        "floor = c.batch_size * self.T, c.final_fraction": {
            "floor = c.batch_size * self.T, 0 * c.final_fraction": "learning rate ends at 0",
        },
        "self.dtype == torch.bfloat16)": {"False)": "bfloat16 ignored"},
    },
    "finetuning.py": {
        "message = tokenizer.encode(content) + after[:1]": {
            "message = tokenizer.encode(content, template.special) + after[:1]": "special tokens read in a message",
        },
        '[role == "assistant"] * len(message)': {"[True] * len(message)": "prompt counts in the loss"},
        "+ [False] * len(after[1:])": {'+ [role == "assistant"] * len(after[1:])': "text after the end token counts"},
        "torch.tensor(ids[1:]).where(": {"torch.tensor(ids[:-1]).where(": "targets not shifted"},
        "torch.tensor(counts[1:])": {"torch.tensor(counts[:-1])": "mask not shifted with the targets"},
        "if turns is roles else []": {"if True else []": "default system message beside another one"},
        "len(ids) - 1 > max_length": {"len(ids) > max_length": "longest conversation refused"},
        "len(ids) + 1 - len(answer + after)": {"len(ids) - len(answer + after)": "prompt one token short"},
        "value=IGNORE)": {"value=0)": "padding counts in the loss"},
        "F.cross_entropy(model(x)[counts], y[counts])": {
            'F.cross_entropy(model(x)[counts], y[counts], reduction="sum")': "loss summed, not averaged",
            "F.cross_entropy(model(x).flatten(0, 1), y.flatten().clamp(min=0))": "ignored targets count as token 0",
        },
    },
    "lora.py": {
        "new_zeros(C_out, rank)": {"new_ones(C_out, rank) / 100": "B not zero at first"},
        "- 1) / C_in**0.5": {"- 1) / C_out**0.5": "A scaled by the outputs"},
        "(2 * torch.rand(": {"(torch.rand(": "A not centered"},
        "self.alpha / self.rank * (x @": {"self.alpha * (x @": "alpha not divided by the rank in the output"},
        "self.alpha / self.rank * self.B": {"self.alpha * self.B": "alpha not divided by the rank in merging"},
        "C_in, generator=generator)": {"C_in)": "seed ignored"},
        'names - {"lm_head"}': {"names": "output layer adapted by default"},
        "and child.weight not in tied": {"": "tied output layer adapted"},
        "    model.requires_grad_(False)\n": {"": "base not frozen"},
        "    model.requires_grad_(True)\n": {"": "merged model stays frozen"},
        "layer.base.weight += layer.change()": {"layer.base.weight -= layer.change()": "change subtracted in merging"},
        "setattr(parent, name, layer.base)": {"pass": "LoRA layers stay after merging"},
        'if facts["base"] != describe_base(model):': {"if False:": "adapter of another model loaded"},
        '"numbers": [parameter.flatten()[0].item() for parameter in base]': {
            '"numbers": [base[0].flatten()[0].item()]': "changed base model not recognized",
        },
        'layer.A.copy_(tensors[f"{name}.A"])': {"pass": "A not loaded"},
        "    if lora_layers(model):\n": {"    if False:\n": "second adapter added"},
    },
    "quantization.py": {
        "[blocks[:, 4:] & 0b1111, blocks[:, 4:] >> 4]": {
            "[blocks[:, 4:] >> 4, blocks[:, 4:] & 0b1111]": "halves of the bytes swapped",
        },
        "    scale, minimum = float16s": {"    minimum, scale = float16s": "scale and minimum swapped in a block"},
        "blocks[:, 2:].view(torch.int8)": {"blocks[:, 2:]": "8-bit codes without a sign"},
        "data.clone()": {"data": "blocks at an odd address refused"},
        "2**bits - 1)": {"2**bits)": "highest level never used"},
        "codes.round()": {"codes": "codes rounded down"},
        ".nan_to_num()": {"": "equal weights divided by a range of 0"},
        "if parameter.ndim == 2]": {"if parameter.ndim > 0]": "vectors of a model quantized"},
        "model = copy.deepcopy(model)": {"pass": "the model itself quantized, not a copy"},
    },
    "checkpoint.py": {
        "damaged = file.testzip()": {"damaged = None": "damage inside a checkpoint not noticed"},
        "        shutil.rmtree(unfinished)\n": {"        pass\n": "unfinished files stay after SIGKILL"},
        "reverse=True)": {"reverse=False)": "oldest checkpoint continued"},
        '    run.optimizer.load_state_dict(state["optimizer"])\n': {"": "optimizer not resumed"},
        '    run.generator.set_state(state["batches"])\n': {"": "order of the batches not resumed"},
        '    torch.set_rng_state(state["dropout"])\n': {"": "dropout not resumed"},
        "if ours.get(name) != theirs.get(name):": {"if False:": "another run's checkpoint accepted"},
        "atomic_write(path, lambda new: torch.save(state, new))": {
            "torch.save(state, path)": "checkpoint not written atomically",
        },
    },
    "documents.py": {
        'errors="surrogateescape"': {'errors="replace"': "bytes that are not UTF-8 silently replaced"},
        "(rest + chunk).split": {"chunk.split": "a separator between two parts overlooked"},
        r'newlines += part.count("\n")' "\n            yield": {
            r'newlines = part.count("\n")' "\n            yield": "lines counted from the last part only"
        },
        "strict=True": {"strict=False": "a quote that does not end swallows the rest of a table"},
        "len(row) != len(names)": {"False": "what follows a comma without quotes dropped"},
        "(kind(path) in ENDINGS, path.as_posix())": {"path.stat().st_mtime": "files in no fixed order"},
    },
    "shards.py": {
        "np.array(tokenizer.encode(END_OF_TEXT, allowed_special=[END_OF_TEXT]))": {
            "np.array(tokenizer.encode(END_OF_TEXT))": "end token spelled out",
        },
        "{self.settings['seed']} {first}": {
            "{self.settings['seed']} {document.line}": "set chosen by the line, so that copies are in both",
            "{first}": "seed of the split ignored",
        },
        "share < self.settings": {"share > self.settings": "the sets swapped"},
        "vocab_size <= 2**16": {"vocab_size < 2**16": "four bytes where two are enough", "True": "large ids cut off"},
        'if number > state["pieces"]:': {"if True:": "pieces encoded again after an interruption"},
        'run.state["done"], None': {"0, None": "documents encoded again after an interruption"},
        "self.waiting[name][: len(saved[name])] = saved[name]": {"pass": "ids that waited lost in an interruption"},
        "(self.lengths - 1) // T  # windows": {"self.lengths // T  # windows": "a window without its last target"},
        'side="right"': {'side="left"': "window looked for in the shard before"},
        "[(n - 1) // T * T :]": {"[n // T * T :]": "tails without their first input"},
        "hashes and sha256(path) !=": {"hashes and False !=": "an altered shard accepted"},
    },
    "rewards.py": {
        "prompts.shape[1] - 1]": {"prompts.shape[1]]": "first token of the answer masked", "0]": "prompt not masked"},
        "[chosen, rejected]))": {"[rejected, chosen]))": "the rejected answers first"},
        "if (equal := (chosen == rejected).all(dim=1)).any():": {"if False:": "pair of equal answers accepted"},
        "return 0 - losses": {"return losses": "losses for log-probabilities"},
        "margins = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))": {
            "margins = beta * (chosen - rejected)": "reference left out of DPO",
            "margins = beta * ((rejected - ref_rejected) - (chosen - ref_chosen))": "DPO prefers the rejected answer",
        },
        "-F.logsigmoid(margins)": {"-margins.sigmoid().log()": "DPO overflows"},
        "rewards.mean(dim=1,": {"rewards.mean(dim=0,": "mean over prompts, not over the group"},
        "(rewards == rewards[:, :1]).all(1, True)": {"False": "rounding learned from equal rewards"},
        "rewards.std(dim=1, keepdim=True)": {
            "rewards.std(dim=1, keepdim=True, correction=0)": "other standard deviation than trl's",
            "rewards.std()": "standard deviation over all groups",
        },
        "old_logprobs).detach()": {"old_logprobs)": "old log-probabilities not constant"},
        "torch.minimum(gain": {"torch.maximum(gain": "clipping raises the gain"},
        "ratio.clamp(1 - clip, 1 + clip) * advantages)": {
            "ratio.clamp(max=1 + clip) * advantages)": "ratio clipped above only",
            "ratio * advantages)": "nothing clipped",
        },
        "return -masked_mean(gain": {"return masked_mean(gain": "lower rewards learned"},
        "values[mask].mean()": {"(values * mask).mean()": "padding counts in the mean"},
        "mask.sum(dim=1).clamp(min=1)": {"mask.shape[1]": "an answer's sum for its mean"},
        "log_ratio = ref_logprobs - logprobs": {"log_ratio = logprobs - ref_logprobs": "the other divergence"},
        "log_ratio.expm1() - log_ratio": {"-log_ratio": "divergence below zero"},
        "math.comb(n - c, k) / math.comb(n, k)": {"(1 - c / n) ** k": "pass@k estimated with a bias"},
        "if bad := [": {"if False and [": "NaN accepted"},
    },
    "probe.py": {
        "hooks.enter_context(module.register_forward_hook(hook, with_kwargs=True))": {
            "module.register_forward_hook(hook, with_kwargs=True)": "hooks of a recording stay on the model",
        },
        "with module.register_forward_hook(lambda module, inputs, out: change(out)), _eager():": {
            "module.register_forward_hook(lambda module, inputs, out: change(out))\n    with _eager():": (
                "patch stays on the model"
            ),
        },
        "inputs[1].detach(), core.causal": {"inputs[1].detach(), False": "recorded attention weights without the mask"},
        ", *inputs[3:]": {"": "recorded attention weights without the padding mask"},
        "(*inputs, *named.values())": {"inputs": "a mask given by name not recorded"},
        " and part in name]": {"]": "layers recorded whatever their name"},
        "{name: out.detach()}": {"{name: out}": "activations keep the graph"},
        "mean[layer, head], out)": {"mean[layer - 1, head], out)": "mean of another layer put in"},
        "out.mean(dim=(0, -2))": {"out.mean(dim=(0, -1))": "heads' mean over channels"},
        "out = out.clone()": {"out = out": "patching changes the output in place"},
        "(x if head is None else x[:, head]).movedim(-2, 1)": {
            "x.movedim(-2, 1)": "all heads patched for one",
            "(x if head is None else x[:, head])": "positions of a head taken for heads",
        },
        "source.shape != out.shape or ": {"": "a source of another shape accepted"},
        "projection.bias.expand_as": {"torch.zeros(()).expand_as": "bias of out_proj is no part"},
        "projection.weight.mT.unflatten": {"projection.weight.unflatten": "heads through rows of out_proj"},
        'in ("learned", "sinusoidal"):': {'in ("learned",):': "sinusoid is no part"},
        "if isinstance(norm, nn.LayerNorm):  #": {"if False:  #": "mean not subtracted in the attribution"},
        "square().mean(-1) + norm.eps": {"square().mean(-1)": "norm's eps left out"},
        "output * norm.weight": {"output": "norm's scale left out"},
        "model.lm_head.weight[tokens]": {"model.token_embedding.weight[tokens]": "every model attributed as if tied"},
        "return value @ attention.out_proj.weight.mT": {"return value @ attention.out_proj.weight": "OV by rows"},
        "q @ k.mT / q.shape[-1] ** 0.5": {
            "q @ k.mT": "qk_circuit not divided by √D",
            "k @ q.mT / q.shape[-1] ** 0.5": "query and key swapped",
        },
        'base = torch.tensor([distance], device=q.device), getattr(config, "rotary_base", BASE)': {
            "base = torch.tensor([distance], device=q.device), BASE": "rotation with another base",
            'base = torch.tensor([-distance], device=q.device), getattr(config, "rotary_base", BASE)': "turned back",
        },
        "k[head * G // H], v[": {"k[head % G], v[": "another key head of the group"},
        "], v[head * G // H]": {"], v[head % G]": "another value head of the group"},
        "0 <= layer < len(layers) and 0 <= head <": {"layer < len(layers) and head <": "negative heads accepted"},
    },
    "pretrained.py": {
        "return tensor.mT if gpt2.transposed(name) else tensor": {
            "return tensor": "matrices of a GPT-2 not transposed"
        },
        "    model.lm_head.weight = model.token_embedding.weight  #": {
            "    pass  #": "output layer not tied after loading"
        },
        "    return model.eval()": {"    return model": "model loaded in training mode"},
        "    tied = is_tied(config)": {"    tied = True": "every model loaded with a tied output layer"},
        'ModernConfig if "n_kv_head" in content else ': {"": "a modern model loaded as a GPT"},
        "if head and not torch.equal": {"if False and not torch.equal": "output layer of its own silently dropped"},
        'if "pad" in content': {'if "padding" in content': "an encoder–decoder loaded as a GPT"},
        "if shapes.get(name) != wanted.get(name):": {"if False:": "shapes not compared"},
        "if tokenizer and tokenizer.vocab_size != config.vocab_size:": {
            "if False:": "another model's tokenizer accepted"
        },
    },
    "gpt2.py": {
        '"n_layer", "n_head", "n_embd", "resid_pdrop")': {
            '"n_head", "n_layer", "n_embd", "resid_pdrop")': "layers and heads confused",
        },
        'MASKS = (".attn.bias", ': {"MASKS = (": "causal masks of the released files taken for parameters"},
        '("gelu_new", "gelu_pytorch_tanh",': {
            '("gelu", "gelu_new", "gelu_pytorch_tanh",': "exact GELU loaded as its tanh form"
        },
        '"tie_word_embeddings": (True,)': {'"tie_word_embeddings": (True, False)': "untied model accepted"},
        ".hexdigest() != sha256:": {".hexdigest() == '':": "damaged download accepted"},
    },
}


def faults(only: str) -> list[tuple[str, str, str, str]]:
    """(file, old, new, name) of each fault with this word in the file's or its own name."""
    listed = [
        (file, old, new, name)
        for file, edits in FAULTS.items()
        for old, news in edits.items()
        for new, name in news.items()
    ]
    return [fault for fault in listed if only in fault[0] or only in fault[3]]


def edited(text: str, old: str, new: str, name: str, file: str) -> str:
    if text.count(old) != 1:
        raise SystemExit(f"{name!r}: {old!r} stands {text.count(old)} times in {file}, not once: update FAULTS")
    return text.replace(old, new)


def first_failure(folder: Path, file: str) -> str | None:
    """The first test of the module that fails in `folder`; None when all pass."""
    module = file.removesuffix(".py")
    tests = [f"tests/test_{name}.py" for name in [module, *MORE_TESTS.get(module, [])]]
    tests = [path for path in tests if (folder / path).exists()]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("GPTLIB_DATA", None)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", f"gptlib/{file}", *tests]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return "no end after 600 s"
    if done.returncode == 0:
        return None
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not failed or done.returncode > 2:
        raise SystemExit(f"pytest could not run the tests of {file}:\n{done.stdout[-2000:]}{done.stderr[-1000:]}")
    return failed[0].partition(" - ")[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="faults with this word in their name or file")
    chosen, unnoticed, begun = faults(parser.parse_args().only), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        for name in ("gptlib", "tests", "tools", "data"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("conftest.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder)
        texts = {file: (folder / "gptlib" / file).read_text(encoding="utf-8") for file, *_ in chosen}
        mutants = [(file, name, edited(texts[file], old, new, name, file)) for file, old, new, name in chosen]
        sound = set()
        for file, name, mutant in mutants:
            if file not in sound and (failed := first_failure(folder, file)):
                raise SystemExit(f"{file}: this fails without any fault: {failed}")
            sound.add(file)
            (folder / "gptlib" / file).write_text(mutant, encoding="utf-8")
            failed = first_failure(folder, file)
            (folder / "gptlib" / file).write_text(texts[file], encoding="utf-8")
            unnoticed += [] if failed else [f"{file}: {name}"]
            print(f"{'noticed' if failed else 'UNNOTICED':9}  {file:13}  {name:48}  {failed or ''}", flush=True)
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} faults noticed in {time.perf_counter() - begun:.0f} s")
    for fault in unnoticed:
        print(f"unnoticed: {fault}")
    return bool(unnoticed or not chosen)


if __name__ == "__main__":
    sys.exit(main())
