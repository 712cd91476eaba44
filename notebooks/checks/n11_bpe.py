"""Checks of notebook 11: merges by hand, longest match, bits per byte, a leading space, streaming, unused tokens."""

import math

from gptlib import BPETokenizer

from .exercise import exercise, prediction

WORD = "thither"
MERGES = [("h", "e"), ("t", "h"), ("he", "r"), ("t", "he"), ("h", "i")]


def misjoined(tokens):
    """A clue: tokens that do not spell the word, that no merge makes, or that can still be merged."""
    if not isinstance(tokens, (list, tuple)):
        return None
    if not all(isinstance(token, str) for token in tokens):
        return "a list of strings is expected, one per token"
    if "".join(tokens) != WORD:
        return f"concatenated, the tokens are {''.join(tokens)!r}, not {WORD!r}"
    if strange := [token for token in tokens if token not in {*WORD, *map("".join, MERGES)}]:
        return f"no merge makes {strange[0]!r}"
    if left := [rank for rank, pair in enumerate(MERGES) if pair in zip(tokens, tokens[1:])]:
        return f"the pair of rank {left[0]} is still there: {' and '.join(MERGES[left[0]])}"
    return "a pair was joined before one of a lower rank: start again from the letters"


by_hand = prediction(
    {"tokens": ["th", "i", "t", "her"], "joins": 3},
    {
        "tokens": {
            ("th", "i", "th", "e", "r"): "a pair further left was joined first: the rank decides, not the position",
            ("th", "i", "the", "r"): "that is the longest token from the left each time; merges do not look for length",
            ("t", "hi", "th", "e", "r"): "the highest rank was merged first, and the lowest comes first",
        },
        "joins": {
            5: "five merges are in the table, and not each of them finds its pair",
            4: "these are the tokens; every join leaves one token fewer than there were",
            2: "a token of three letters takes two joins",
        },
    },
    said="h e, then t h, then he r: three joins, and seven letters become four tokens.",
    clue=misjoined,
)


def case(pre_token, *tokens):
    return pre_token, {*tokens, *(pre_token[i : i + 1] for i in range(len(pre_token)))}


GROW = "end = 1\n        while end < len(pre_token) and pre_token[: end + 1] in vocabulary:\n            end += 1"


@exercise(
    cases=[
        *[case(b"a"), case(b"ab", b"ab"), case(b"abcc", b"ab", b"bcc"), case(b"aba", b"ab", b"ba"), case(b"", b"a")],
        *[case(b"aaaaa", b"aa", b"aaa"), case(b"cab", b"ab", b"ca"), case(b"abcab", b"abc", b"cab")],
        *[case(b" a (a.b) ", b" a", b"(a", b".b"), case("déjà".encode(), "é".encode(), "é".encode()[1:] + b"j")],
    ],
    mistakes={
        "while pre_token[:end] not in vocabulary:\n            end -= 1": {
            "end = 1": "these are single bytes, the shortest tokens that fit",
            GROW: "it stops at the first length that is no token, and a longer one may be a token again",
        },
        "end = len(pre_token)": {"end = len(pre_token) - 1 or 1": "a token is never all that is left of the pre-token"},
        "pre_token = pre_token[end:]": {
            "pre_token = pre_token[1:]": "it goes on one byte later, not where the last token ended"
        },
        "": {
            "right(pre_token, vocabulary)[:1]": "only the first token is there: go on with what is left",
            "[t[::-1] for t in right(pre_token[::-1], {t[::-1] for t in vocabulary})][::-1]": "matched from the right",
            "[pre_token]": "the pre-token comes back whole, and it need not be in the vocabulary",
            "list(pre_token)": "`pre_token[0]` is the number of a byte; `pre_token[:1]` is the byte itself",
        },
    },
    seconds=2,
    said="from the left, the longest token that fits, and every byte once.",
)
def longest_match(pre_token, vocabulary):
    tokens = []
    while pre_token:
        end = len(pre_token)
        while pre_token[:end] not in vocabulary:
            end -= 1
        tokens.append(pre_token[:end])
        pre_token = pre_token[end:]
    return tokens


WRONG_LETTERS = {
    "a": "it has the lowest loss per token, and the most tokens: multiply",
    "c": "it has the fewest tokens, and the highest loss per token: multiply",
}


@exercise(
    cases=[(2.0, 3, "banana"), (3.5, 4, "café é"), (0.5, 9, "東京"), (6.25, 20, "To be, or not to be: 🎭 ")],
    pairs=True,
    mistakes={
        "/ math.log(2)": {
            "": "these are nats: a bit is ln 2 nats",
            "* math.log(2)": "it is multiplied by ln 2: a bit is less than a nat, so there are more of them",
            "/ 0.693": "0.693 is ln 2 rounded: `math.log(2)` has all of its digits",
        },
        "loss * n_tokens": {"loss": "the number of tokens is not used: the loss is for one of them"},
        'len(text.encode("utf-8"))': {
            "len(text)": "it is divided by the characters: some of them are more than one byte",
            "n_tokens": "this is per token: divide the sum by the bytes of the text",
        },
        'whole / len(text.encode("utf-8"))': {"whole": "this is the sum over the whole text"},
        "": {"loss / math.log(2) * len(text.encode()) / n_tokens": "tokens and bytes are exchanged"},
    },
    value=prediction({"best": "b"}, {"best": WRONG_LETTERS}, said=""),
    said="the bits of a text are divided by its bytes, and model b needs the fewest.",
)
def bits_per_byte(loss, n_tokens, text):
    whole = loss * n_tokens / math.log(2)  # bits for all of the text
    return whole / len(text.encode("utf-8"))


leading_space = prediction(
    {"with": 1.785, "without": 1.870},
    {
        "with": {1.870: "this is the loss without the space: are the two entries exchanged?"},
        "without": {
            1.785: "this is the loss with the space: are the two entries exchanged?",
            1.764: "this is the pattern without `(?!\\S)`: remove the three ` ?`",
        },
    },
    said="1.785 with the space and 1.870 without it: a bigram model that sees a space has lost the word before.",
    tolerance=0.003,
)


class Tokens(dict):
    """A tokenizer of a few tokens that can only decode; a dict, so that it is shown as one."""

    vocabulary = property(lambda self: list(self.values()))

    def decode(self, ids):
        return b"".join(self[i] for i in ids).decode("utf-8", errors="replace")


def parts(*tokens):
    return [*range(len(tokens))], Tokens(enumerate(tokens))


def untimely(strings, ids, tokenizer):
    """A clue: the string that comes too early or too late. When a � that stays is given, is left open."""
    for n, string in enumerate(strings, 1):
        text, so_far = tokenizer.decode(ids[:n]), "".join(strings[:n])
        complete = text.rstrip("�") if n < len(ids) else text
        if not tokenizer.decode(ids).startswith(so_far):
            return f"string {n - 1}, {string!r}, is not what decode gives there in the end"
        if len(so_far) < len(complete):
            return f"string {n - 1}, {string!r}, holds back {complete[len(so_far) :]!r}, which is complete by then"
        if not text.startswith(so_far):
            return f"string {n - 1}, {string!r}, comes before the bytes that complete it"
    return None


def in_time(answer, ids, tokenizer):
    """The strings; those of the solution where they are as good, since more than one list can be right."""
    result = answer(ids, tokenizer)
    if isinstance(result, (list, tuple)) and len(result) == len(ids) and all(isinstance(s, str) for s in result):
        return list(result) if untimely(result, ids, tokenizer) else stream_decode.solution(ids, tokenizer)
    return result


E_, T_, MASK = "é".encode(), "東".encode(), "🎭".encode()


@exercise(
    cases=[
        *[parts(b"a"), parts(b"to", b" be"), parts(E_[:1], E_[1:]), parts(b"caf" + E_[:1], E_[1:] + b"s", b".")],
        *[parts(MASK[:2], MASK[2:] + T_[:2], T_[2:] + E_[:1], E_[1:]), parts(b"to ", MASK[:3]), parts()],
        *[parts(b"\xff", b"a", b"b"), parts(E_[1:], b"a" + T_[:2], E_), parts(b"to ", "�".encode(), b"be", T_[:2])],
        parts(T_[:1], E_[:1], "né".encode(), T_[2:] + MASK[:2], b"a", T_[:2], T_[2:] + MASK[:1], MASK[1:], b"\xff"),
    ],
    mistakes={
        "if n < len(ids)": {"if True": "what is left over at the end is lost: it becomes � in the last string"},
        'certain.rstrip("�")': {
            "certain": "a � that was given cannot be taken back: wait until the character is complete",
            'certain[: given if certain.endswith("�") else None]': "a complete character waits with the incomplete one",
        },
        "certain[given:]": {"certain": "all complete text so far comes each time: give only what is new"},
        "range(1, len(ids) + 1)": {"range(1, len(ids))": "the last id is left out: `range` stops before its end"},
        "": {
            "[s for s in right(ids, tokenizer) if s]": "an id that completes nothing gets an empty string",
            "[tokenizer.decode([i]) for i in ids]": "every id is decoded alone: half a character becomes �",
            "[tokenizer.vocabulary[i].decode('utf-8', 'ignore') for i in ids]": "incomplete characters are thrown away",
            "[tokenizer.decode(ids)]": "the text is right, in one string: give one for each id",
        },
    },
    call=in_time,
    clues=[untimely],
    said="each character comes with the id that completes it, and joined the strings are what decode gives.",
)
def stream_decode(ids, tokenizer):
    strings, given = [], 0
    for n in range(1, len(ids) + 1):
        certain = tokenizer.decode(ids[:n])
        if n < len(ids):
            certain = certain.rstrip("�")  # perhaps the start of a character
        strings.append(certain[given:])
        given = len(certain)
    return strings


class Learned(BPETokenizer):
    """A tokenizer that is shown with its tokens from 256 on."""

    def __init__(self, *merges, special=("<|endoftext|>",)):
        super().__init__([tuple(part.encode() for part in merge.split("+")) for merge in merges], special)

    def __repr__(self):
        return repr(dict(list(enumerate(self.vocabulary))[256:]))


BYTES = "tokenizer.vocabulary[i].decode('utf-8', 'replace')"
THE = ("h+e", "t+he", " +the", " +t", "o+r")


@exercise(
    cases=[
        *[(Learned("t+h", "th+e"), "the"), (Learned("t+h", "th+e"), "the path"), (Learned(*THE[:2]), "he, the she")],
        *[(Learned(*THE, special=()), "the theme of the other"), (Learned("x+y", *THE, "z+z"), "other")],
        *[(Learned(*THE, special=("<|user|>", "[end]")), "to the other"), (Learned("T+h", "Th+e", "\n+\n"), "The\n\n")],
    ],
    pairs=True,
    mistakes={
        "range(256, end)": {
            "range(end)": "the bytes are counted too, and no merge made them",
            "range(257, end)": "the first merge is left out: it made id 256",
            "range(256, tokenizer.vocab_size)[: -len(tokenizer.special_tokens)]": "no special tokens: `[:-0]` is empty",
        },
        "- len(tokenizer.special_tokens)": {
            "": "the special tokens are counted too, and no merge made them",
            "- 1": "it takes only the last id for a special token: there may be none, or several",
        },
        "if i not in used": {
            f"if {BYTES} not in text": "it looks for a token's letters in the text: a longer token may hold them",
            "if i in used": "these are the tokens that the text uses",
            "": "these are all tokens that merges made",
        },
        "set(tokenizer.encode(text))": {
            "{i for s in text.split() for i in tokenizer.encode(s)}": "encoded word by word: spaces are part of tokens",
        },
        "": {
            "[i - 256 for i in right(tokenizer, text)]": "these are ranks: the merge of rank 0 made id 256",
            f"[i for i in range(tokenizer.vocab_size) if {BYTES} not in text]": "both faults are still there",
        },
    },
    said="all tokens that a merge made and the text does not use, with special tokens or without.",
)
def unused(tokenizer, text):
    used = set(tokenizer.encode(text))
    end = tokenizer.vocab_size - len(tokenizer.special_tokens)
    return [i for i in range(256, end) if i not in used]
