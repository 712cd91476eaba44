"""Make the instructions and answers of notebook 15: `python data/instruct/make.py short.jsonl`.

stories15M writes stories. A story that ends is the answer to an instruction that names its hero, and a sentence is the
answer to one that names one or two of its words. Questions with short answers are selected from `short.jsonl` (see the
card).
"""

import argparse
import collections
import json
import random
import re
from functools import partial
from pathlib import Path

import gptlib
from gptlib.files import atomic_write

FOLDER = Path(__file__).parent
STORY = ("Write a story about {}.", "Tell me a story about {}.")
KINDS = "boy girl man woman dog cat bird rabbit bunny bear mouse fish frog fox bug duck monkey".split()
HERO = rf"\ban? (?:[a-z]+ ){{0,2}}?({'|'.join(KINDS)}) named ([A-Z][a-z]+)"
MISSING = (  # what a question of the source refers to, or is about, without holding it
    "receipt|invoice|stud(y|ies)|paper|filing|compan|e-?mail|contract|agreement|\\btext|provided|given|article|"
    "\\btrial|\\bdata|report|transaction|service|document|passage|input|figure|table|patient|review|research|meeting|"
    "algorithm|customer|payment|purchase|clinical|revenue|income|financial|\\bdrug|liabilit|cash|tonsil|privacy"
)
MARKS = r"[\n$@\\*_`#<>|{}\[\]=^~]|http"  # lists, tables, formulas, addresses
SENTENCE = ("Write a sentence with {}.", "Make a sentence with {}.")


def sample_stories(seeds, batch_size=128, longest=200):
    """What stories15M writes after <s>, as (text, whether it ended within `longest` tokens)."""
    model, tokenizer = gptlib.pretrained.load("stories15M")
    start = tokenizer.encode("<s>", ["<s>"])
    found = []
    for seed in seeds:
        settings = {"temperature": 1.0, "top_k": 40, "stop": start[0]}
        rows = gptlib.generate(model, [start] * batch_size, longest, seed, **settings)[:, 1:].tolist()
        for row in rows:
            end = row.index(start[0]) if start[0] in row else None
            found.append((tokenizer.decode(row[:end]).strip(), end is not None))
    return found


def words_in(text):
    """The words in lower case, of three letters or more: no names, and not the first word of a sentence."""
    return re.findall(r"(?<![\w'])[a-z]{3,}(?![\w'])", text)


def listed(words):
    """["dog"] -> "the word dog", ["dog", "ball"] -> "the words dog and ball" """
    return f"the word{'s' * (len(words) > 1)} " + " and ".join(words)


def make_pairs(stories, rng, content):
    """(kind, instruction, answer, words): stories that ended and name somebody, and sentences of all stories."""
    pairs, told = [], collections.Counter()
    for story, ended in stories:
        found = re.search(HERO, story[:150])
        if ended and found and told[found[2]] < 12:  # every third story is about Lily
            told[found[2]] += 1
            pairs.append(("story", rng.choice(STORY).format(found[0]), story, [found[2].lower()]))
        for sentence in re.findall(r"(?<=[.!?] )[A-Z][^.!?\"\n]+\.(?= |$)", story):
            chosen = sorted({word for word in words_in(sentence) if word in content})
            if 5 <= len(sentence.split()) <= 16 and len(chosen) >= 2 and not sentence.startswith("One "):
                rng.shuffle(chosen)
                for words in (chosen[:2], chosen[-1:]):
                    pairs.append(("sentence", rng.choice(SENTENCE).format(listed(words)), sentence, words))
    return list({pair[1:3]: pair for pair in pairs}.values())


def make_questions(path, longest=(14, 16)):
    """Pairs of a line each, of few words, whose question refers to nothing that is missing."""
    pairs = {}
    for row in map(json.loads, Path(path).read_text(encoding="utf-8").splitlines()):
        question, answer = row["user"].strip(), row["assistant"].strip()
        if answer[0] == answer[-1] and answer[0] in "'\"":
            answer = answer[1:-1]
        both = f"{question} {answer}"
        short = len(question.split()) <= longest[0] and len(answer.split()) <= longest[1]
        if short and both.isascii() and not re.search(MISSING, both.lower()) and not re.search(MARKS, both):
            pairs[question] = ("question", question, answer, [])
    return list(pairs.values())


def build(stories, source, held_out=64, questions=50):
    """The training and the test set; no instruction, story or sentence is in both."""
    in_stories = collections.Counter(word for text, _ in stories for word in set(words_in(text)))
    content = {word for word, n in in_stories.items() if 3 <= n <= 0.1 * len(stories)}
    rng = random.Random(0)
    test, train = (make_pairs(part, rng, content) for part in (stories[:held_out], stories[held_out:]))
    learned = {text for _, instruction, answer, _ in train for text in (instruction, answer)}
    test = [pair for pair in test if pair[1] not in learned and pair[2] not in learned]
    asked = make_questions(source)
    rng.shuffle(asked)
    return {"train": train + asked[questions:], "test": test + asked[:questions]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    settings = parser.parse_args()
    pairs = build(sample_stories(range(settings.seeds)), settings.source)
    lines = {name: ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) for name, rows in pairs.items()}
    text = "{" + ",\n".join(f'"{name}": [\n{rows}\n]' for name, rows in lines.items()) + "}\n"
    atomic_write(FOLDER / "pairs.json", partial(Path.write_text, data=text, encoding="utf-8", newline="\n"))
    print({name: collections.Counter(row[0] for row in rows) for name, rows in pairs.items()})
