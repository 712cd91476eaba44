"""What the card says about the translation model: `python data/translator/measure.py [FOLDER]`."""

import json
import re
import sys
import time
from pathlib import Path

import sacrebleu
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from torch.nn import functional as F

from gptlib import pretrained, probe
from gptlib.encoder_decoder import beam_search, pad_ids, translate

FOLDER = Path(__file__).parent
pairs = json.loads((FOLDER.parent / "en_fr" / "pairs.json").read_text(encoding="utf-8"))
model, tokenizer = pretrained.load(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
c = model.config
WORDS = {word for english, _, _ in pairs["train"] for word in re.findall(r"[a-z]+", english)}


def ids(text):
    return tokenizer.encode(" " + text)


def text(row):
    return tokenizer.decode(i for i in row if i not in (c.pad, c.end)).strip()


def scores(guesses, rows):
    """Exact match and chrF of guesses for these rows."""
    references = [french for _, french, _ in rows]
    exact = sum(guess == french for guess, french in zip(guesses, references)) / len(rows)
    return f"{exact:.3f} | {sacrebleu.corpus_chrf(guesses, [references]).score:.1f}"


def greedy(rows):
    source = pad_ids([ids(english) for english, _, _ in rows], c.pad)
    found = [translate(model, part, c.context_length - 1) for part in source.split(100)]
    return [text(row) for part in found for row in part.tolist()]


@torch.no_grad()
def forced(rows):
    """Mean loss per token, and the share of tokens that are right, when each is predicted from the reference."""
    source = pad_ids([ids(english) for english, _, _ in rows], c.pad)
    target = pad_ids([[c.start, *ids(french), c.end] for _, french, _ in rows], c.pad)
    logits, after = model(source, target[:, :-1]), target[:, 1:]
    right = (logits.argmax(-1) == after)[after != c.pad].float().mean().item()
    return F.cross_entropy(logits.flatten(0, 1), after.flatten(), ignore_index=c.pad).item(), right


@torch.no_grad()
def log_probability(english, french_ids):
    """The log-probability of a target that ends with the end token."""
    source, target = torch.tensor([ids(english)]), torch.tensor([[c.start, *french_ids]])
    log_probs = model(source, target[:, :-1]).log_softmax(-1)
    return log_probs.gather(-1, target[:, 1:, None]).sum().item()


@torch.no_grad()
def aligned(rows):
    """Of the tokens of three letters or more that occur once on both sides: how often the largest weight is there."""
    right = total = 0
    for english, french, _ in rows:
        source, target = ids(english), [*ids(french), c.end]
        with probe.attention(model, "cross_attention") as maps:
            model(torch.tensor([source]), torch.tensor([[c.start, *target[:-1]]]))
        largest = maps[-1][0].mean(dim=0).argmax(dim=-1).tolist()  # the last layer, averaged over its heads
        for t, token in enumerate(target):
            if len(tokenizer.decode([token]).strip()) >= 3 and source.count(token) == target.count(token) == 1:
                right, total = right + (largest[t] == source.index(token)), total + 1
    return right, total


for name in ("validation", "test"):
    rows = pairs[name]
    english = [row[0] for row in rows]
    loss, right = forced(rows)
    print(f"{name}: loss {loss:.3f} nats per token, teacher-forced accuracy {right:.3f} of tokens, {len(rows)} pairs")
    print("copy |", scores(english, rows))
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 3))
    known = vectorizer.fit_transform(row[0] for row in pairs["train"])
    nearest = (vectorizer.transform(english) @ known.T).argmax(axis=1)
    neighbors = [pairs["train"][i][1] for i in nearest.A1]
    print("nearest neighbor |", scores(neighbors, rows))
    begin = time.process_time()
    guesses = greedy(rows)
    print("greedy |", scores(guesses, rows), f"| {time.process_time() - begin:.1f} s")

unseen = [bool(set(re.findall(r"[a-z]+", row[0])) - WORDS) for row in rows]
lengths = [len(row[0].split()) for row in rows]
groups = {
    "names of flags": [row[0].startswith("flag: ") for row in rows],
    "other names": [row[2] == "cldr" and not row[0].startswith("flag: ") for row in rows],
    "interface": [row[2] != "cldr" for row in rows],
    "all words seen": [not u for u in unseen],
    "a word unseen": unseen,
    "1-2 words": [n <= 2 for n in lengths],
    "3-4 words": [3 <= n <= 4 for n in lengths],
    "5 words or more": [n >= 5 for n in lengths],
}
for group, chosen in groups.items():
    k = [i for i, is_in in enumerate(chosen) if is_in]
    part = [rows[i] for i in k]
    print(f"{group}, {len(k)} | {scores([guesses[i] for i in k], part)} | {scores([neighbors[i] for i in k], part)}")

begin, beams, worse, gain = time.process_time(), [], 0, 0.0
for row in rows:
    source = torch.tensor([ids(row[0])])
    first = translate(model, source, c.context_length - 1)[0].tolist()
    score, found = beam_search(model, source, c.context_length - 1, 4)[0]
    plain = log_probability(row[0], first)
    beams.append(text(found))
    gain += score - plain
    worse += score < plain - 1e-4
print("beam 4 |", scores(beams, rows), f"| {time.process_time() - begin:.1f} s")
print(f"beam minus greedy: {gain / len(rows):.3f} nats per sentence, lower in {worse}")
print(sum(a != b for a, b in zip(beams, guesses)), "differ")
right, total = aligned(pairs["validation"])
print(f"the largest weight is on the same token for {right} of {total} tokens that both sides share (validation)")
