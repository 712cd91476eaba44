"""The speed of BPE training and encoding: gptlib's plain Python beside `tokenizers` (Rust) and `tiktoken` (Rust).

`python tests/benchmarks/bpe.py` takes some minutes: training on all of Tiny Shakespeare, encoding all of it with
GPT-2's merges, long runs of random letters, and then 100,000 random texts over all of Unicode, whose ids must be
tiktoken's (the tests look at a tenth of them). Each uses one thread, and CPU seconds are counted, which other processes
do not change. All take turns, and a ratio is that of two neighboring measurements. What is printed is the median and
the middle half.

The limits of the course: training 4,096 tokens in 4 s, and encoding at least as fast as `tokenizers`.
"""

import argparse
import os
import platform
import random
import statistics
import sys
import time
from pathlib import Path

os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the oracles of the tests

import tiktoken
import tokenizers
from _turns import spread, take_turns
from test_bpe import random_texts
from test_tokenizers import by_tiktoken, gpt2s_tokens, huggingface, written

import gptlib
from gptlib.bpe import BPETokenizer

LIMIT = 4.0  # seconds of training
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def huggingface_training(text: str, vocab_size: int) -> list[str]:
    theirs = huggingface({}, [])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([text], trainer)
    return sorted(theirs.get_vocab(), key=theirs.token_to_id)


def huggingface_gpt2(ours: BPETokenizer) -> tokenizers.Tokenizer:
    """With the same merges, and an empty cache."""
    tokens = [written(token) for token in ours.vocabulary]
    return huggingface(
        {token: i for i, token in enumerate(tokens[:-1])},
        [(tokens[left], tokens[right]) for left, right in ours._ranks],
    )


def seconds(call) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def fresh_seconds(ours: BPETokenizer, text: str) -> float:
    """With an empty cache."""
    ours._cache.clear()
    return seconds(lambda: ours.encode(text))


def fresh_huggingface(ours: BPETokenizer, text: str) -> float:
    theirs = huggingface_gpt2(ours)
    return seconds(lambda: theirs.encode(text))


def fresh_huggingface_ids_only(ours: BPETokenizer, text: str) -> float:
    """Ids without their positions in the text: their fastest method."""
    theirs = huggingface_gpt2(ours)
    return seconds(lambda: theirs.encode_batch_fast([text]))


def report(times: dict[str, list[float]], unit: int, unit_name: str) -> None:
    """Times `unit` (1 for seconds, 1000 for milliseconds), and ratios to the first of `times`."""
    ours = next(iter(times.values()))
    for name, values in times.items():
        ratios = [value / own for value, own in zip(values, ours)]
        print(
            f"  {name:34} {spread([unit * value for value in values])} {unit_name}, "
            f"{spread(ratios)} times gptlib's time",
            flush=True,
        )


def compare_training(text: str, vocab_size: int, rounds: int) -> None:
    ours = BPETokenizer.train(text, vocab_size, special_tokens=())
    same = [written(token) for token in ours.vocabulary] == huggingface_training(text, vocab_size)
    times = take_turns(
        {
            "gptlib": lambda: seconds(lambda: BPETokenizer.train(text, vocab_size, special_tokens=())),
            "tokenizers": lambda: seconds(lambda: huggingface_training(text, vocab_size)),
        },
        rounds,
    )
    middle = statistics.median(times["gptlib"])
    print(
        f"training {vocab_size:,} tokens on {len(text):,} characters: {'the same' if same else 'TOKENS DIFFER'}\n"
        f"  gptlib's median is {'within' if middle <= LIMIT else 'ABOVE'} the limit of {LIMIT} s"
    )
    report(times, 1, "s")


def compare_encoding(text: str, ours: BPETokenizer, tik: tiktoken.Encoding, rounds: int) -> None:
    ids = ours.encode(text)
    same = ids == tik.encode_ordinary(text) == huggingface_gpt2(ours).encode(text).ids
    times = take_turns(
        {
            "gptlib": lambda: fresh_seconds(ours, text),
            "gptlib, cached": lambda: seconds(lambda: ours.encode(text)),  # filled by the line above
            "tokenizers": lambda: fresh_huggingface(ours, text),
            "tokenizers, ids alone": lambda: fresh_huggingface_ids_only(ours, text),
            "tiktoken": lambda: seconds(lambda: tik.encode_ordinary(text)),
        },
        rounds,
    )
    print(
        f"encoding {len(text):,} characters, {len(ids):,} tokens of GPT-2: {'the same ids' if same else 'IDS DIFFER'}"
    )
    report(times, 1000, "ms")


def compare_runs(ours: BPETokenizer, tik: tiktoken.Encoding, rounds: int) -> None:
    """One very long pre-token, which shows a time that is quadratic in the length."""
    draw, before = random.Random(0), {}
    for n in (2_000, 20_000, 200_000):
        text = "".join(draw.choices(LETTERS, k=n))
        same = ours.encode(text) == tik.encode_ordinary(text)
        times = take_turns(
            {
                "gptlib": lambda text=text: fresh_seconds(ours, text),
                "tokenizers": lambda text=text: fresh_huggingface(ours, text),
                "tiktoken": lambda text=text: seconds(lambda: tik.encode_ordinary(text)),
            },
            rounds,
        )
        middles = {name: statistics.median(values) for name, values in times.items()}
        growth = ", ".join(f"{name} {middles[name] / before[name]:.1f}" for name in before)
        print(f"one run of {n:,} random letters: {'the same ids' if same else 'IDS DIFFER'} as tiktoken's", end="")
        print(f"; times the time of the tenth: {growth}" if before else "")
        report(times, 1000, "ms")
        before = middles


def compare_random_texts(ours: BPETokenizer, tik: tiktoken.Encoding, n: int) -> bool:
    same = back = characters = 0
    for text in random_texts(n, seed=1):
        ids = ours.encode(text)
        same += ids == tik.encode_ordinary(text)
        back += ours.decode(ids) == text
        characters += len(text)
    print(f"{n:,} random texts, {characters:,} characters: tiktoken's ids for {same:,}, {back:,} come back exactly")
    return same == back == n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each, at least 2 (7)")
    parser.add_argument("--vocab", type=int, default=4096, help="tokens to learn (4096)")
    parser.add_argument("--texts", type=int, default=100_000, help="random texts to compare with tiktoken (100000)")
    options = parser.parse_args()

    print(
        f"Python {platform.python_version()}, tokenizers {tokenizers.__version__}, tiktoken {tiktoken.__version__}, "
        "one thread each"
    )
    text, ours, tik = gptlib.load_text("shakespeare"), BPETokenizer.gpt2(), by_tiktoken(gpt2s_tokens())
    compare_training(text, options.vocab, options.rounds)
    compare_encoding(text, ours, tik, options.rounds)
    compare_runs(ours, tik, options.rounds)
    if not compare_random_texts(ours, tik, options.texts):
        sys.exit("some ids differ from tiktoken's")


if __name__ == "__main__":
    main()
