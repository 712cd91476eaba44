"""Do the tests notice? Each fault below is put into a copy of the package, alone, and the tests must turn red.

    python tests/faults.py            all of them
    python tests/faults.py mask head  those with one of these words in their name

A fault is one exact edit: where the text to replace is no longer found once, the run stops and this file is mended.
The notebooks and the pictures are left out; every fault must be noticed without them.
"""

import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What looks at pages, pictures and exercises, and at none of the pieces that the faults are put into.
LEFT_OUT = [
    f"test_{name}"
    for name in "browser checks colab diagrams exercises explorer notebooks plot repository stamp".split()
]

# The two places where attention is computed: the fused kernel that the model runs, and the weights that are shown.
KERNEL = "F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal and T == S)"
CAUSAL = "is_causal=self.causal and T == S)"
FUTURE = ".triu(1 + S - T)"
SCALE = "/ math.sqrt(D)"
BY_HAND = """(
            (q @ k.mT / q.shape[-1] ** 0.5)
            .masked_fill(torch.ones(T, S, dtype=torch.bool).triu(1 + S - T) & self.causal, -torch.inf)
            .softmax(dim={}) @ v
        )"""
MASK = "attn_mask=torch.ones(T, S, dtype=torch.bool).tril(S - T + {}))"
ALL_CHANNELS = "(q.shape[-1] * (q.shape[1] if q.ndim == 4 else 1))"
ATTEND, COMPUTE = "x = x + self.attention(self.norm1(x), past)", "x = x + self.feed_forward(self.norm2(x))"
EVALUATE = "    model.eval()\n    try:\n        total"
GENERATE = "    model.eval()\n    try:\n        for t in"

# name, module, text, its replacement
FAULTS = [
    ("mask one to the right, kernel", "attention", CAUSAL, MASK.format(1)),
    ("mask one to the right, weights", "attention", FUTURE, ".triu(2 + S - T)"),
    ("mask one to the left, kernel", "attention", CAUSAL, MASK.format(-1)),
    ("mask one to the left, weights", "attention", FUTURE, ".triu(S - T)"),
    ("no mask, kernel", "attention", CAUSAL, "is_causal=False)"),
    ("no mask, weights", "attention", "    if causal:\n", "    if False:\n"),
    ("no mask, unless asked for", "attention", "def __init__(self, causal: bool = True, dropout: float = 0.0):",
     "def __init__(self, causal: bool = False, dropout: float = 0.0):"),
    ("no mask, in many heads", "attention", "Attend(causal, dropout)", "Attend(False, dropout)"),
    ("no mask, in one head", "attention", "Attend(causal)", "Attend(False)"),
    ("scale left out, kernel", "attention", CAUSAL, "is_causal=self.causal and T == S, scale=1.0)"),
    ("scale left out, weights", "attention", SCALE, ""),
    ("scale by C, kernel", "attention", CAUSAL, f"is_causal=self.causal and T == S, scale={ALL_CHANNELS} ** -0.5)"),
    ("scale by C, weights", "attention", SCALE, f"/ math.sqrt{ALL_CHANNELS}"),
    ("scale by D without the root, kernel", "attention", CAUSAL,
     "is_causal=self.causal and T == S, scale=1 / q.shape[-1])"),
    ("scale by D without the root, weights", "attention", SCALE, "/ D"),
    ("softmax over the wrong axis, kernel", "attention", KERNEL, BY_HAND.format(-2)),
    ("softmax over the wrong axis, weights", "attention", "scores.softmax(dim=-1)", "scores.softmax(dim=-2)"),
    ("heads merged without the transpose", "attention", "x.transpose(-3, -2).flatten(-2)",
     "x.reshape(*x.shape[:-3], x.shape[-2], -1)"),
    ("heads split without the transpose", "attention", "x.unflatten(-1, (n_head, -1)).transpose(-3, -2)",
     "x.reshape(*x.shape[:-2], n_head, x.shape[-2], -1)"),
    ("residual around attention dropped", "model", ATTEND, ATTEND.replace("x + ", "")),
    ("residual around feed-forward dropped", "model", COMPUTE, COMPUTE.replace("x + ", "")),
    ("post-norm for pre-norm, attention", "model", ATTEND, "x = self.norm1(x + self.attention(x, past))"),
    ("post-norm for pre-norm, feed-forward", "model", COMPUTE, "x = self.norm2(x + self.feed_forward(x))"),
    ("residual taken after the norm", "model", ATTEND, "x = self.norm1(x) + self.attention(self.norm1(x), past)"),
    ("targets not shifted, batches", "data", "chosen[:, :-1], chosen[:, 1:]", "chosen[:, :-1], chosen[:, :-1]"),
    ("targets not shifted, evaluation", "training", "ids[1 : whole + 1].view", "ids[:whole].view"),
    ("targets not shifted, last window", "training", "ids[None, whole + 1 :]", "ids[None, whole:-1]"),
    ("position embedding left out", "model", "self.token_embedding(idx) + self.position_embedding(positions)",
     "self.token_embedding(idx)"),
    ("position embedding the same everywhere", "model", "self.position_embedding(positions)",
     "self.position_embedding(positions * 0)"),
    ("dropout active in evaluation", "training", EVALUATE, EVALUATE.replace("model.eval()", "pass")),
    ("dropout active in evaluation, on the weights", "attention", "self.dropout if self.training else 0.0",
     "self.dropout"),
    ("dropout active in generation", "sampling", GENERATE, GENERATE.replace("model.eval()", "pass")),
    ("dropout stays off after evaluation", "training", "model.train(was_training)", "pass"),
    ("validation drawn from the training part, split", "data", "ids[:cut], ids[cut:]",
     "ids[:cut], ids[: len(ids) - cut]"),
    ("validation drawn from the training part, on the way", "training",
     "history.val.append((step, evaluate(model, val_ids, T)))",
     "history.val.append((step, evaluate(model, train_ids, T)))"),
    ("validation drawn from the training part, at the end", "training",
     "history.val.append((done, evaluate(model, val_ids, T)))",
     "history.val.append((done, evaluate(model, train_ids, T)))"),
    ("weight decay on biases", "training", '"weight_decay": 0.0}', '"weight_decay": weight_decay}'),
    ("weight decay on nothing", "training", '"weight_decay": weight_decay},', '"weight_decay": 0.0},'),
    ("warm-up one late", "training", "peak * (step + 1) / warmup_steps", "peak * step / warmup_steps"),
    ("warm-up one longer", "training", "peak * (step + 1) / warmup_steps", "peak * (step + 1) / (warmup_steps + 1)"),
    ("warm-up one step further", "training", "if step < warmup_steps:", "if step <= warmup_steps:"),
    ("warm-up one step ahead, in the loop", "training", "= schedule(step, steps", "= schedule(step + 1, steps"),
    ("warm-up one more by default", "training", "max(1, steps // 20)", "max(1, steps // 20) + 1"),
    ("tied head untied", "model", "self.head.weight = self.token_embedding.weight", "pass"),
    ("tied head a copy", "model", "self.head.weight = self.token_embedding.weight",
     "self.head.weight = nn.Parameter(self.token_embedding.weight.detach().clone())"),
    ("generator ignored, generation", "sampling", "generator=generator)", "generator=None)"),
    ("generator ignored, batches", "data", "(batch_size,), generator=generator)", "(batch_size,))"),
    ("generator ignored, training", "training", "batch(train_ids, batch_size, T, generator)",
     "batch(train_ids, batch_size, T)"),
    ("rotary turns the other way", "positions", "[first * cos - second * sin, first * sin + second * cos]",
     "[first * cos + second * sin, second * cos - first * sin]"),
    ("rotary pairs neighbours", "positions", "first, second = x.chunk(2, dim=-1)",
     "first, second = x[..., ::2], x[..., 1::2]"),
    ("rotary with another base", "positions", "base, exact)", "base / 10, exact)"),
    ("rotary turns the keys alone", "attention", "self.rotate(q, positions), self.rotate", "q, self.rotate"),
    ("rotary turns the queries alone", "attention", "positions), self.rotate(k, positions)", "positions), k"),
    ("rotary not put into the blocks", "model", "config.dropout, turn)", "config.dropout)"),
    ("rotary in every model", "model", 'turn = rotate if config.positions == "rotary" else unturned', "turn = rotate"),
    ("rotary ignores where a text begins", "positions", "    if positions is None:\n", "    if True:\n"),
    ("rotary angles in half precision", "positions", "exact = torch.promote_types(x.dtype, torch.float32)  #",
     "exact = x.dtype  #"),
    ("sine and cosine swapped", "positions", "[turned.sin(), turned.cos()]", "[turned.cos(), turned.sin()]"),
    ("sines and cosines in halves", "positions", "torch.stack([turned.sin(), turned.cos()], dim=-1).flatten(-2)",
     "torch.cat([turned.sin(), turned.cos()], dim=-1)"),
    ("another base everywhere", "positions", "BASE = 10_000.0", "BASE = 1_000.0"),
    ("frequencies twice as fast to fall", "positions", "(-2 * pair / channels)", "(-4 * pair / channels)"),
    ("waves louder than the tokens", "positions", "height: float = 0.02", "height: float = 1.0"),
    ("sinusoidal rows counted from 1", "positions", "sinusoid(positions, self.n_embd, exact)",
     "sinusoid(positions + 1, self.n_embd, exact)"),
    ("rotary positions counted backwards", "positions", "torch.arange(x.shape[-2], device=x.device)",
     "torch.arange(x.shape[-2], device=x.device).flip(0)"),
    ("every encoding ends with the context", "model", 'config.positions == "learned" and T >', "T >"),
    ("rotary forgets what was read", "attention", "torch.arange(past.length, past.length + x.shape[-2],",
     "torch.arange(x.shape[-2],"),
    ("odd heads under rotary", "model", "self.n_embd // self.n_head % 2:", "False:"),
    ("any word for an encoding", "model", "if self.positions not in ENCODINGS:", "if False:"),
    # What else goes wrong in such code.
    ("exact GELU", "model", 'nn.GELU(approximate="tanh")', "nn.GELU()"),
    ("another epsilon in a norm", "model", "self.norm2 = nn.LayerNorm(n_embd)",
     "self.norm2 = nn.LayerNorm(n_embd, eps=1e-6)"),
    ("final norm left out", "model", "self.head(self.norm(x))", "self.head(x)"),
    ("quieter start of the outputs left out", "model", "0.02 / (2 * self.config.n_layer) ** 0.5 if into_path else ",
     ""),
    ("gradient not clipped", "training", "            nn.utils.clip_grad_norm_(model.parameters(), clip)\n", ""),
    ("gradient not cleared", "training", "            optimizer.zero_grad()\n", ""),
    ("last window not evaluated", "training", "if whole < len(ids) - 1:", "if False:"),
    ("every window weighs the same", "training", "* y.numel() for x, y in pairs)",
     "* (len(ids) - 1) / len(pairs) for x, y in pairs)"),
    ("resume forgets where the batches were", "checkpoint", '    generator.set_state(state["batches"])\n', ""),
    ("resume forgets where dropout was", "checkpoint", '    torch.set_rng_state(state["dropout"])\n', ""),
    ("resume forgets the optimizer", "checkpoint", '    optimizer.load_state_dict(state["optimizer"])\n', ""),
    ("checkpoint written in place", "files", "            write(new)\n",
     "            write(path)\n            return\n"),
    ("checkpoint runs the code in it", "checkpoint", "weights_only=True", "weights_only=False"),
    ("good state not kept", "training", "        model.load_state_dict(good)\n", ""),
    ("probe leaves its hooks", "probe", "            hook.remove()\n", "            pass\n"),
    ("largest probability in place of a draw", "sampling", "torch.multinomial(probabilities, 1, generator=generator)",
     "probabilities.argmax(dim=-1, keepdim=True)"),
    ("drawn from the first position", "sampling", "start + cache.length : t], cache)[:, -1]",
     "start + cache.length : t], cache)[:, 0]"),
    ("first tokens in place of the latest", "sampling", "model(text[:, start:t])", "model(text[:, : t - start])"),
    # Drawing text, and the cache.
    ("temperature multiplies", "sampling", "(logits - highest) / temperature", "(logits - highest) * temperature"),
    ("temperature after top-p", "sampling", "return logits.softmax(dim=-1)\n",
     "return ((logits - highest) / temperature).softmax(dim=-1)\n"),
    ("a low temperature overflows", "sampling", "(logits - highest) / temperature", "logits / temperature"),
    ("top-k keeps one more", "sampling", "logits.topk(k, dim=-1)", "logits.topk(min(k + 1, logits.shape[-1]), dim=-1)"),
    ("top-k drops the k-th", "sampling", "logits < kth", "logits <= kth"),
    ("top-p one short", "sampling", "tail <= 1 - p", "tail < 1 - p + ascending.softmax(dim=-1)"),
    ("top-p keeps the unlikely", "sampling", "logits.sort(dim=-1)", "(-logits).sort(dim=-1)"),
    ("top-p not put back in order", "sampling", "cut.scatter(-1, order, cut)", "cut"),
    ("top-p may drop all", "sampling", "    cut[..., -1] = False\n", ""),
    ("top-p before top-k", "sampling",
     "        logits = keep_top_k(logits, top_k)\n    if top_p is not None:\n"
     "        logits = keep_top_p(logits, top_p)\n",
     "        plain, logits = logits, keep_top_k(logits, top_k)\n    else:\n        plain = logits\n"
     "    if top_p is not None:\n"
     "        logits = logits.where(keep_top_p(plain, top_p) > -torch.inf, -torch.inf)\n"),
    ("NaN drawn from", "sampling", "if not highest.isfinite().all():", "if False:"),
    ("stopped rows go on", "sampling", "drawn.masked_fill(ended, stop)", "drawn"),
    ("a stop token in the prompt stops", "sampling", "(drawn == stop) & (t >= lengths)", "text[:, t - 1] == stop"),
    ("no end when all have stopped", "sampling", "            if ended.all():\n                return\n", ""),
    ("a longer prompt drawn over", "sampling", "drawn.where(t >= lengths, text[:, t])", "drawn"),
    ("shorter texts too long", "sampling", "        row = row[: len(prompt) + max_new_tokens]\n", ""),
    ("few rows in another order", "rows", "self.weight @ pair.mT", "self.weight.flip(0) @ pair.mT"),
    ("few rows without their bias", "rows", "return y if self.bias is None else y + self.bias", "return y"),
    ("a single row comes out twice", "rows", ".mT[: len(rows)]", ".mT"),
    ("mode left behind by a stream", "sampling", "model.train(was_training)", "pass"),
    ("cache not emptied when the window moves", "sampling", "                    cache.clear()\n",
     "                    pass\n"),
    ("cache filled for nothing", "sampling", "cache = None  #", "cache.clear()  #"),
    ("cache keeps a stale position", "model", "torch.arange(cache.length, cache.length + idx.shape[-1],",
     "torch.arange(0, idx.shape[-1],"),
    ("cache overwrites its beginning", "cache", "self.keys[..., start:end, :]", "self.keys[..., : end - start, :]"),
    ("cache keeps no values", "cache", "        self.values[..., start:end, :] = v\n", ""),
    ("cache keeps keys for values", "cache", "= v\n", "= k\n"),
    ("cache forgets to count", "cache", "        self.length = end\n", ""),
    ("cache hands back its room", "cache", "self.keys[..., :end, :], self.values[..., :end, :]",
     "self.keys, self.values"),
    ("cache takes any batch", "cache", "if room.shape != k.shape:", "if False:"),
    ("cache keeps gradients", "cache", "if k.requires_grad:", "if False:"),
    ("queries at the first positions", "attention", ".tril(S - T)", ".tril(0)"),
    ("no mask when reading on", "attention", "T == S or T == 1", "T <= S"),
    ("layers share a cache", "model", "zip(self.blocks, cache.layers)",
     "zip(self.blocks, [list(zip(self.blocks, cache.layers))[0][1]] * len(self.blocks))"),
    # Byte-pair encoding.
    ("no borders between pieces", "bpe", "return PATTERN.findall(text)", "return [text] if text else []"),
    ("no borders between pieces, outside ASCII", "bpe",
     "return [text[found.start() : found.end()] for found in PATTERN.finditer(text.translate(kinds))]",
     "return [text]"),
    ("letters outside ASCII are signs", "bpe", '"a" if character.isalpha() else ', ""),
    ("numbers outside ASCII are digits alone", "bpe", "character.isnumeric()", "character.isdigit()"),
    ("spaces outside ASCII are signs", "bpe", '"\\t" if character.isspace() else ', ""),
    ("the last space is not left to the word", "bpe", r"|\s+(?!\S)|\s+", r"|\s+"),
    ("more spaces in ASCII than GPT-2 has", "bpe", r'|\s+", re.ASCII)', r'|\s+")'),
    ("endings in capitals", "bpe", "re.ASCII)", "re.ASCII | re.IGNORECASE)"),
    ("an ending forgotten", "bpe", "'t|'re|'ve", "'t|'ve"),
    ("numbers without their space", "bpe", "| ?[0-9]+", "|[0-9]+"),
    ("bytes in their own order", "bpe", "BYTES = PRINTABLE + sorted(set(range(256)) - set(PRINTABLE))",
     "BYTES = list(range(256))"),
    ("bytes written as other characters", "bpe", "256 + i - len(PRINTABLE)", "256 + byte"),
    ("merges overlap", "bpe", "i += 2 if here else 1", "i += 1"),
    ("ties go to the higher pair", "bpe", "        count, pair = heappop(queue)\n",
     "        count, pair = min(queue, key=lambda e: (e[0], -e[1][0], -e[1][1]))\n"
     "        queue.remove((count, pair))\n"),
    ("ties go by the second number first", "bpe", "        count, pair = heappop(queue)\n",
     "        count, pair = min(queue, key=lambda e: (e[0], e[1][::-1]))\n        queue.remove((count, pair))\n"),
    ("a piece counts once, however often it is there", "bpe", "list(pieces.values())", "[1] * len(pieces)"),
    ("new pairs count once", "bpe", "counts[now] += often[w]", "counts[now] += 1"),
    ("pairs taken away still count", "bpe", "counts[old] -= often[w]", "pass"),
    ("a count of before is believed", "bpe", "if -count != counts[pair]:", "if False:"),
    ("a pair that became rarer is forgotten", "bpe", "            if counts[pair]:\n", "            if False:\n"),
    ("new pairs to the right are forgotten", "bpe", "if new in now:", "if new == now[1]:"),
    ("new pairs to the left are forgotten", "bpe", "if new in now:", "if new == now[0]:"),
    ("every word is worked on for each merge", "bpe", "for w in where.pop(pair):", "for w in range(len(words)):"),
    ("one merge too many", "bpe", "len(merges) < n_merges", "len(merges) <= n_merges"),
    ("the highest rank first", "bpe", "        rank, i = heappop(queue)\n",
     "        rank, i = queue.pop(queue.index(max(queue)))\n"),
    ("from the left, whatever the rank", "bpe", "        rank, i = heappop(queue)\n",
     "        rank, i = queue.pop(queue.index(min(queue, key=lambda e: e[1])))\n"),
    ("equal ranks from the right", "bpe", "        rank, i = heappop(queue)\n",
     "        rank, i = queue.pop(queue.index(min(queue, key=lambda e: (e[0], -e[1]))))\n"),
    ("a place whose tokens have changed is joined", "bpe", "if ranks.get((tokens[i], tokens[j])) != rank:",
     "if None in (tokens[i], tokens[j]):"),
    ("the right neighbour is not looked at again", "bpe", "((before[i], i), (i, after[i]))", "((before[i], i),)"),
    ("the left neighbour is not looked at again", "bpe", "((before[i], i), (i, after[i]))", "((i, after[i]),)"),
    ("the way back is not mended", "bpe", "        before[after[i]] = i\n", ""),
    ("the whole text is looked through for each merge", "bpe", "    end = len(tokens)\n",
     "    while found := [(ranks[p], i) for i, p in enumerate(zip(tokens, tokens[1:])) if p in ranks]:\n"
     "        tokens = [*tokens[: min(found)[1]], 256 + min(found)[0], *tokens[min(found)[1] + 2 :]]\n"
     "    queue, end = [], len(tokens)\n"),
    ("special tokens always allowed", "tokenizers", "sorted(allowed_special, key", "sorted(self._special, key"),
    ("special tokens never allowed", "tokenizers", "            if part in allowed:\n", "            if False:\n"),
    ("the shorter special token first", "tokenizers", "key=len, reverse=True)", "key=len)"),
    ("any name allowed", "tokenizers", "            if name not in self._special:\n", "            if False:\n"),
    ("special names read as patterns", "tokenizers", "map(re.escape, allowed)", "allowed"),
    ("special tokens numbered before the others", "tokenizers", "{name: len(self.vocabulary) + i for", "{name: i for"),
    ("special tokens not counted", "tokenizers", "- len(bpe.BYTES) - len(special_tokens)", "- len(bpe.BYTES)"),
    ("special tokens may share a name", "tokenizers", " or len(set(names)) < len(names):", ":"),
    ("no room for the bytes", "tokenizers", "        if wanted < 0:\n", "        if False:\n"),
    ("fewer tokens than asked for", "tokenizers", "        if len(pairs) < wanted:\n", "        if False:\n"),
    ("a merge may come twice", "tokenizers", " or left + right in numbers:", ":"),
    ("decoding fails at half a character", "tokenizers",
     'look_up(ids, self.vocabulary)).decode("utf-8", errors="replace")',
     'look_up(ids, self.vocabulary)).decode("utf-8")'),
    ("decoding leaves half a character out", "tokenizers",
     'look_up(ids, self.vocabulary)).decode("utf-8", errors="replace")',
     'look_up(ids, self.vocabulary)).decode("utf-8", errors="ignore")'),
    ("decoding goes token by token", "tokenizers",
     'b"".join(look_up(ids, self.vocabulary)).decode("utf-8", errors="replace")',
     '"".join(token.decode("utf-8", errors="replace") for token in look_up(ids, self.vocabulary))'),
    ("half a surrogate pair is let through", "tokenizers", 'if found := re.search("[\\ud800-\\udfff]", text):',
     'if found := re.search("[\\ud800-\\udbff]", text):'),
    ("half a surrogate pair is trained on", "tokenizers", "        check_characters(text)\n        pairs",
     "        pairs"),
    ("half a surrogate pair one place on", "tokenizers", "at position {found.start()} is half",
     "at position {found.end()} is half"),
    ("pieces remembered for ever", "tokenizers", "            self._known.clear()\n", "            pass\n"),
    ("special tokens not saved", "tokenizers", "HEADER + json.dumps(self.special_tokens, ensure_ascii=False)",
     "HEADER"),
    ("merges written in place", "tokenizers", "write_whole(path, lambda new:",
     "(lambda path, write: write(Path(path)))(path, lambda new:"),
    ("bytes written as Latin letters", "tokenizers", '"".join(bpe.WRITTEN[b] for', '"".join(chr(b) for'),
    ("a file of merges cut short", "tokenizers", "if not lines or lines[-1]:", "if not lines:"),
    ("any first line of a file of merges", "tokenizers", "if not header.startswith(HEADER.strip()):", "if False:"),
    ("lines counted from 1 behind the first", "tokenizers", "enumerate(lines[:-1], start=2)",
     "enumerate(lines[:-1], start=1)"),
    ("lines end at any sign of a new line", "tokenizers", 'errors="replace").split("\\n")',
     'errors="replace").replace("\\u2028", "\\n").split("\\n")'),
    ("GPT-2's merges unchecked", "tokenizers", "read_checked(folder() / place, sha256)",
     "(folder() / place).read_bytes()"),
    # GPT-2's weights, in and out.
    ("not turned, queries, keys and values", "gpt2", '("c_attn.weight", "c_proj.weight", "c_fc.weight")',
     '("c_proj.weight", "c_fc.weight")'),
    ("not turned, attention's output, a square", "gpt2", '("c_attn.weight", "c_proj.weight", "c_fc.weight")',
     '("c_attn.weight", "mlp.c_proj.weight", "c_fc.weight")'),
    ("not turned, the wide layer", "gpt2", '("c_attn.weight", "c_proj.weight", "c_fc.weight")',
     '("c_attn.weight", "c_proj.weight")'),
    ("turned, where nothing is", "gpt2", "if name.endswith(TURNED)", "if tensor.ndim == 2"),
    ("queries and keys swapped", "attention", "q, k, v = self.qkv(x).chunk(3, dim=-1)",
     "k, q, v = self.qkv(x).chunk(3, dim=-1)"),
    ("norms of a block swapped", "gpt2",
     '"h.{}.ln_1": "blocks.{}.norm1",\n    "h.{}.attn.c_attn": "blocks.{}.attention.qkv",\n'
     '    "h.{}.attn.c_proj": "blocks.{}.attention.project",\n    "h.{}.ln_2": "blocks.{}.norm2",',
     '"h.{}.ln_1": "blocks.{}.norm2",\n    "h.{}.attn.c_attn": "blocks.{}.attention.qkv",\n'
     '    "h.{}.attn.c_proj": "blocks.{}.attention.project",\n    "h.{}.ln_2": "blocks.{}.norm1",'),
    ("biases of the two outputs swapped", "gpt2", "found[theirs].read()",
     'found[theirs.replace("attn.c_proj.bias", "mlp.c_proj.bias")].read()'),
    ("biases left out", "gpt2", 'ours.endswith("embedding")', 'ours.endswith(("embedding", "narrow"))'),
    ("biases not read", "gpt2", "            model.get_parameter(ours).copy_",
     '            theirs.endswith("c_fc.bias") or model.get_parameter(ours).copy_'),
    ("positions off by one", "gpt2", "turned(theirs, found[theirs].read())",
     'turned(theirs, found[theirs].read()).roll(int(theirs == "wpe.weight"), 0)'),
    ("layers in another order", "gpt2", "names |= {f\"{theirs.format(i)}.{part}\"",
     "names |= {f\"{theirs.format(n_layer - 1 - i)}.{part}\""),
    ("head untied by loading", "gpt2", "    return model.eval()\n",
     "    model.head.weight = torch.nn.Parameter(model.head.weight.detach().clone())\n    return model.eval()\n"),
    ("head not tied again", "gpt2", "    model.head.weight = model.token_embedding.weight  # tied again",
     "    pass  # tied again"),
    ("a head of its own is dropped", "gpt2", "if head and not torch.equal", "if False and torch.equal"),
    ("model hangs on its file", "gpt2", "model.get_parameter(ours).copy_(turned(theirs, found[theirs].read()))",
     "model.get_parameter(ours).data = turned(theirs, found[theirs].read()).float()"),
    ("loaded for training", "gpt2", "    return model.eval()\n", "    return model\n"),
    ("a start drawn for nothing", "gpt2", 'with torch.device("meta"):', 'with torch.device("cpu"):'),
    ("the file read as a whole", "gpt2", "    with torch.no_grad():\n",
     "    whole = [tensor.read().clone() for tensor in found.values()]\n    with torch.no_grad():\n"),
    ("shapes not compared", "gpt2", "if found[name].shape != wanted[name]:", "if False:"),
    ("tensors too many", "gpt2", "if name not in wanted:", "if False:"),
    ("tensors too few", "gpt2", "if name not in found:", "if False:"),
    ("any positions written as learned", "gpt2", 'if c.positions != "learned":', "if False:"),
    ("another model's tokenizer written", "gpt2", "tokenizer.vocab_size != model.config.vocab_size:",
     "False:"),
    ("a head of its own lost", "gpt2", "if model.head.weight is not model.token_embedding.weight:", "if False:"),
    ("written in the model's precision", "gpt2", ".detach().float().cpu()", ".detach().cpu()"),
    ("written without its format", "gpt2", ', metadata={"format": "pt"}', ""),
    ("a full disk under another name", "gpt2", "except SafetensorError as error:",
     "except ZeroDivisionError as error:"),
    ("what lies beside is lost", "gpt2", "shutil.copytree(folder, new)", "new.mkdir()"),
    ("old shards stay", "gpt2_files", '["model.safetensors.index.json", "model-*-of-*.safetensors"]', "[]"),
    ("old tokenizer stays", "gpt2_files", "    if with_tokenizer:\n", "    if False:\n"),
    ("masks taken for weights", "gpt2_files", 'MASKS = (".attn.bias", ".attn.masked_bias")', "MASKS = (None,) * 0"),
    ("biases taken for masks", "gpt2_files", 'MASKS = (".attn.bias",', 'MASKS = ("attn.bias",'),
    ("prefix left on", "gpt2_files", '.removeprefix("transformer.")', ""),
    ("whole numbers taken for weights", "gpt2_files", "if dtype not in FLOATS:", "if False:"),
    ("exact GELU taken for tanh", "gpt2_files", '("gelu_new",', '("gelu_new", "gelu",'),
    ("another epsilon taken", "gpt2_files", "(1e-5,)", "(1e-5, 1e-6)"),
    ("unscaled attention taken", "gpt2_files", '"scale_attn_weights": (True,)', '"scale_attn_weights": (True, False)'),
    ("scale by layer taken", "gpt2_files", '"scale_attn_by_inverse_layer_idx": (False,)',
     '"scale_attn_by_inverse_layer_idx": (False, True)'),
    ("untied head taken", "gpt2_files", '"tie_word_embeddings": (True,)', '"tie_word_embeddings": (True, False)'),
    ("another width taken", "gpt2_files", 'if said.get("n_inner") not in', "if None not in"),
    ("another kind of model taken", "gpt2_files", '"model_type": ("gpt2",)', '"model_type": ("gpt2", "bert")'),
    ("dropout not read", "gpt2_files", ', dropout=said.get("resid_pdrop", 0.0))', ")"),
    ("dropout not written", "gpt2_files", '"attn_pdrop": c.dropout', '"attn_pdrop": 0.0'),
    ("heads of another size", "gpt2_files", "n_layer, n_embd // 64, n_embd)", "n_layer, n_embd // 32, n_embd)"),
    ("a shard forgotten", "gpt2_files", "for name in shards.values()})", "for name in shards.values()})[1:]"),
    ("exact GELU written", "gpt2_files", '"activation_function": "gelu_new"', '"activation_function": "gelu"'),
    ("another epsilon written", "gpt2_files", '"layer_norm_epsilon": 1e-5,', '"layer_norm_epsilon": 1e-6,'),
    ("end of text always last", "gpt2_files", "vocab_size - len(special) + special.index(END_OF_TEXT)",
     "vocab_size - 1"),
    ("bytes written as they are", "gpt2_files", "bpe.WRITTEN[byte] for byte", "chr(byte) for byte"),
    ("special tokens in writing", "gpt2_files", "+ list(tokenizer.special_tokens)",
     '+ [token.replace(" ", "Ġ") for token in tokenizer.special_tokens]'),
    ("other special tokens not told", "gpt2_files", "for token in tokenizer.special_tokens if token != end]",
     "for token in ()]"),
    ("checksum not compared", "hub", "if digest.hexdigest() != sha256:", "if False:"),
    ("only the beginning checked", "hub", "while block := content.read(2**20):", "for block in [content.read(2**20)]:"),
    ("a moving revision", "hub", ', "revision": release.revision}', "}"),
    ("cache not asked first", "hub", "hf_hub_download(**place, local_files_only=True)", "hf_hub_download(**place)"),
    ("tries for half a minute", "hub", "            huggingface_hub.get_hf_file_metadata(address, timeout=10)\n", ""),
    ("a full disk taken for the network", "hub", "in (errno.ENOSPC, ", "in ("),
    ("unknown errors of the network let through", "hub", "except Exception as error:", "except OSError as error:"),
    ("merges not saved beside the model", "pretrained", "            tokenizer.save(new / MERGES)\n",
     "            pass\n"),
    ("merges not read", "pretrained", 'if kind["type"] == BPETokenizer.__name__:', "if False:"),
]  # fmt: skip


def copy_to(folder: Path) -> Path:
    for name in ("gptlib", "tests", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.checkpoint"))
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


class FirstFailure:
    """A plugin for pytest that remembers the first test that fails, or the first file that cannot be read."""

    name = None

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.name = self.name or report.nodeid

    pytest_collectreport = pytest_runtest_logreport


def first_failure(folder: Path, module: str) -> str | None:
    """In a process of its own: run the tests in `folder`, those of `module` first; the first that fails, or None."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True  # two faults of one length within one second would look the same to Python
    os.environ.pop("GPTLIB_DATA", None)
    import pytest

    files = sorted(path for path in (folder / "tests").glob("test_*.py") if path.stem not in LEFT_OUT)
    first = {"files": "checkpoint", "rows": "sampling", "gpt2_files": "gpt2"}.get(module, module)
    files.sort(key=lambda path: path.stem != f"test_{first}")
    found, output = FirstFailure(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *map(str, files), "gptlib"], plugins=[found])
    if status == 0:
        import gptlib

        assert Path(gptlib.__file__).parent == folder / "gptlib", "the tests saw another package"
        return None
    return found.name or f"no test, but pytest said:\n{output.getvalue()[-3000:]}"


def main(words: list[str]) -> int:
    chosen = [fault for fault in FAULTS if not words or any(word in fault[0] for word in words)]
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Where the system can, one process loads the slow libraries and is copied for each fault.
    quick = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if quick else "spawn")
    if quick:
        context.set_forkserver_preload(
            ["pytest", "torch", "transformers.models.gpt2.modeling_gpt2", "matplotlib.pyplot"]
        )
    green = []
    with tempfile.TemporaryDirectory() as scratch, context.Pool(1, maxtasksperchild=1) as pool:
        folder = copy_to(Path(scratch).resolve())
        originals = {path.stem: path.read_text(encoding="utf-8") for path in (folder / "gptlib").glob("*.py")}
        for name, module, text, _ in FAULTS:
            if originals[module].count(text) != 1:
                sys.exit(f"{name!r}: {text!r} stands {originals[module].count(text)} times in {module}.py, not once")
        if failed := pool.apply(first_failure, (folder, "attention")):
            sys.exit(f"without any fault, this fails: {failed}")
        for name, module, text, replacement in chosen:
            path = folder / "gptlib" / f"{module}.py"
            path.write_text(originals[module].replace(text, replacement), encoding="utf-8")
            failed = pool.apply(first_failure, (folder, module))
            path.write_text(originals[module], encoding="utf-8")
            print(f"{'red' if failed else 'GREEN':6} {name:52} {failed or ''}", flush=True)
            green += [] if failed else [name]
    print(f"{len(chosen) - len(green)} of {len(chosen)} faults noticed")
    return bool(green)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
