"""Checks of notebook 12: counting blocks, names, the matrix of three, a fault in one layer, a loss over a long text."""

import math
from functools import partial

import torch
from torch.nn import functional as F

from gptlib.checks.gpt import Reader, explained
from gptlib.checks.judge import Mistake, examine, exercise, mistakes_of, number, plain, same, tensors
from gptlib.checks.words import a, shortened

# --- blocks within a budget ---------------------------------------------------------------------------------------


def whole_blocks(left, block):
    return max(0, left // block)


def blocks(
    budget,
    n_embd,
    vocab_size,
    context_length,
    *,
    block=lambda C: 12 * C**2 + 13 * C,
    apart=lambda C, V, T: V * C + T * C + 2 * C,
    count=whole_blocks,
):
    """How many blocks fit, with a place for every slip."""
    return count(budget - apart(n_embd, vocab_size, context_length), block(n_embd))


def blocks_within(budget, n_embd, vocab_size, context_length):
    return blocks(budget, n_embd, vocab_size, context_length)


BLOCK = {
    "the biases and norms of a block are left out: 13 C": lambda C: 12 * C**2,
    "the two norms of a block are left out: a gain and a shift each, 4 C": lambda C: 12 * C**2 + 9 * C,
    "a norm has a gain and a shift: the two of a block hold 4 C": lambda C: 12 * C**2 + 11 * C,
    "the biases of the four matrices are left out: 9 C": lambda C: 12 * C**2 + 4 * C,
    "attention has four matrices: the fourth writes back into the path": lambda C: 11 * C**2 + 12 * C,
    "attention has four matrices, and only three are counted, though all biases are": lambda C: 11 * C**2 + 13 * C,
    "the feed-forward widens four times and narrows again: two matrices": lambda C: 8 * C**2 + 12 * C,
    "this is the attention of a block alone: the feed-forward and the norms come on top": lambda C: 4 * C**2 + 4 * C,
    "this is the feed-forward of a block alone: attention and the norms come on top": lambda C: 8 * C**2 + 5 * C,
}
APART = {
    "the head is the token table, and is counted again": lambda C, V, T: (2 * V + T + 2) * C,
    "the position table is left out: a row for each place": lambda C, V, T: (V + 2) * C,
    "the token table is left out: a row for each token": lambda C, V, T: (T + 2) * C,
    "the last norm is left out: 2 C": lambda C, V, T: (V + T) * C,
    "the last norm has a gain and a shift: 2 C": lambda C, V, T: (V + T + 1) * C,
    "the position table and the last norm are left out": lambda C, V, T: V * C,
    "the blocks are not alone in the budget: the two tables and the last norm come first": lambda C, V, T: 0,
}
COUNT = {
    "a budget that is too small for the tables alone holds 0 blocks, not fewer": lambda left, block: left // block,
    "it is rounded up: a block that does not fit as a whole does not fit": lambda left, block: max(
        0, -(-left // block)
    ),
    "it is rounded to the nearest: a block that does not fit as a whole does not fit": lambda left, block: max(
        0, round(left / block)
    ),
    "what is left is divided and not rounded: there are no parts of blocks": lambda left, block: max(0, left / block),
    "what is left is divided and not rounded, and is negative where the tables do not fit": lambda left, block: (
        left / block
    ),
    "what fills the budget exactly is within it": lambda left, block: max(0, (left - 1) // block),
    "one block too many: the last one passes the budget": lambda left, block: whole_blocks(left, block) + 1,
    "one block too few: another one fits": lambda left, block: max(0, whole_blocks(left, block) - 1),
    "even a budget that the tables alone pass gets a block: 0 can be the answer": lambda left, block: max(
        1, left // block
    ),
}


def too_large(answer, cases):
    """What can be said of the first wrong count: how many parameters a model of that many blocks has."""
    for budget, C, V, T in cases:
        found, right = plain(answer(budget, C, V, T)), blocks_within(budget, C, V, T)
        if abs(found - right) > 1e-4:
            if found < 0:
                return "there are no fewer than 0 blocks"
            if found > right:
                total = (V + T + 2) * C + math.ceil(found) * (12 * C**2 + 13 * C)
                return f"{math.ceil(found)} blocks make {total:,} parameters, and the budget is {budget:,}"
            return f"there is room for {right - math.floor(found)} more"
    return "the result differs"


@exercise
def blocks_that_fit(answer):
    """A function budget, n_embd, vocab_size, context_length -> how many blocks a GPT-2 may have."""
    cases = [
        (3_270, 10, 50, 9),
        (3_269, 10, 50, 9),
        (3_255, 10, 50, 9),
        (1_939, 10, 50, 9),
        (609, 10, 50, 9),
        (0, 10, 900, 9),
    ]
    cases += [(69_790, 10, 300, 7), (124_439_808, 768, 50_257, 1_024), (124_439_807, 768, 50_257, 1_024)]
    # few blocks in the last two, so that an answer may build the models; no two single mistakes agree in all
    cases += [(354_823_168, 1_024, 50_257, 1_024), (784, 1, 9, 7), (41_753, 8, 547, 3_196)]
    slips = [("block", BLOCK), ("apart", APART), ("count", COUNT)]
    try:
        examine(answer, cases, expected=blocks_within, mistakes=mistakes_of(blocks, slips))
    except Mistake as mistake:
        raise explained(mistake, too_large, answer, cases) from None
    return "whole blocks within the budget, twelve times: the 124M model gets its 12, and with one number less only 11."


# --- names --------------------------------------------------------------------------------------------------------

OUTSIDE = {"token_embedding": "wte", "position_embedding": "wpe", "norm": "ln_f", "head": "wte"}
INSIDE = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.project": "attn.c_proj",
    "norm2": "ln_2",
    "feed_forward.widen": "mlp.c_fc",
    "feed_forward.narrow": "mlp.c_proj",
}


def renamed(ours, *, parts=None, block="h.{}.{}", front="", kinds=None):
    """The released name, with a place for every slip."""
    parts, kinds = OUTSIDE | INSIDE | (parts or {}), kinds or {}
    module, kind = ours.rsplit(".", 1)
    if module.startswith("blocks."):
        _, i, part = module.split(".", 2)
        module = block(i, parts[part]) if callable(block) else block.format(i, parts[part])
    else:
        module = parts[module]
    return f"{front}{module}.{kinds.get(kind, kind)}"


def released(ours):
    return renamed(ours)


def ours_of(n_layer):
    """Every name of our model's state, in its order."""
    names = ["token_embedding.weight", "position_embedding.weight"]
    for i in range(n_layer):
        names += [f"blocks.{i}.{part}.{kind}" for part in INSIDE for kind in ("weight", "bias")]
    return [*names, "norm.weight", "norm.bias", "head.weight"]


RENAMED = {
    "the two norms of a block are exchanged: ln_1 stands before attention": {"norm1": "ln_2", "norm2": "ln_1"},
    "their norms count from 1, as ours do": {"norm1": "ln_0", "norm2": "ln_1"},
    "attention's two are exchanged: c_attn makes queries, keys and values, c_proj writes back": {
        "attention.qkv": "attn.c_proj",
        "attention.project": "attn.c_attn",
    },
    "the feed-forward's two are exchanged: c_fc widens, c_proj narrows": {
        "feed_forward.widen": "mlp.c_proj",
        "feed_forward.narrow": "mlp.c_fc",
    },
    "the two tables are exchanged: wte embeds tokens, wpe positions": {
        "token_embedding": "wpe",
        "position_embedding": "wte",
        "head": "wpe",
    },
    "there are two c_proj in a block: attn. or mlp. must stand before them": {
        part: name.partition(".")[2] or name for part, name in INSIDE.items()
    },
    "their attention is called attn": {
        "attention.qkv": "attention.c_attn",
        "attention.project": "attention.c_proj",
    },
    "their feed-forward is called mlp": {
        "feed_forward.widen": "feed_forward.c_fc",
        "feed_forward.narrow": "feed_forward.c_proj",
    },
    "c_proj is one name for two matrices, one in attn and one in mlp": {"attention.project": "mlp.c_proj"},
    "c_proj is one name for two matrices: the one of the feed-forward is in mlp": {
        "feed_forward.narrow": "attn.c_proj"
    },
    "the last norm is called ln_f": {"norm": "ln_1"},
    "the last norm is called ln_f, f for final": {"norm": "ln_3"},
    "head.weight is the token table, and a released file holds that matrix once, as wte.weight": {"head": "lm_head"},
    "head.weight is left as it is: it is the token table, which is released as wte.weight": {"head": "head"},
}
BLOCKS = {
    "the number of the block is lost": "h.{1}",
    "their blocks are called h": "blocks.{}.{}",
    "a dot stands between h and the number of the block": "h{}.{}",
    "`{}` stands there still: put the number of the block in its place": lambda i, part: f"h.{{}}.{part}",
    "their blocks count from 0, as ours do": lambda i, part: f"h.{int(i) + 1}.{part}",
    "a block may have a number of two digits": lambda i, part: f"h.{i[-1]}.{part}",
    "a block may have a number of two digits, and the first one is all that is left of it": lambda i, part: (
        f"h.{i[0]}.{part}"
    ),
}
FRONTS = {
    "`transformer.` is put in front by some libraries: the released names have none": "transformer.",
    "`model.` does not stand before the names of this layout": "model.",
}
KINDS = {
    "the last word is weight or bias, as in ours": {"weight": "w", "bias": "b"},
    "every name ends in .weight, and biases have a name too": {"bias": "weight"},
}


def known_parts(answer, cases):
    """What can be said of the first wrong name."""
    back = {released(ours): ours for (ours,) in reversed(cases)}
    words = {word for name in back for word in name.split(".") if not word.isdigit()}
    for (ours,) in cases:
        name, right = answer(ours), released(ours)
        if name == right:
            continue
        if not isinstance(name, str):
            return "the result differs"
        if name == ours:
            return "the name comes back as it went in"
        if name in back:
            return f"that is the released name of {back[name]}"
        if name.strip() != name or name.strip(".") != name:
            return "the name begins or ends with something that does not belong to it"
        parts = name.split(".")
        if strange := [part for part in parts if part not in words and not part.isdigit()]:
            return f"{strange[0]!r} is part of no released name: does a replacement change a word inside another one?"
        if sorted(parts) == sorted(right.split(".")):
            return "the parts of the name are right, and their order is not"
        if len(parts) != len(right.split(".")):
            wanted = len(right.split("."))
            return f"cut at its dots, the name has {len(parts)} of the {wanted} parts that it should have"
        return "one part of the name is another's"
    return "the result differs"


@exercise
def released_name(answer):
    """A function that takes our name of a weight and returns the released one."""

    def use(answer, ours):
        name = answer(ours)
        if name is None and ours == "head.weight":
            raise Mistake("Not yet: nothing comes back for head.weight: it is in the file, under which other name?")
        return name

    cases = [(name,) for name in ours_of(12)] + [("blocks.35.norm2.bias",), ("blocks.47.feed_forward.narrow.weight",)]
    slips = [("parts", RENAMED), ("block", BLOCKS), ("front", FRONTS), ("kinds", KINDS)]
    mistakes = mistakes_of(renamed, slips)
    try:
        examine(answer, cases, expected=released, mistakes=mistakes, call=use)
    except Mistake as mistake:
        raise explained(mistake, known_parts, answer, cases) from None
    return f"all {len(ours_of(12))} names of a model of 12 blocks, and two of larger ones."


# --- one matrix for queries, keys and values ----------------------------------------------------------------------


def thirds(weight, n_head):
    """(C, 3C) -> the three matrices, each (out, in)."""
    return weight.mT.chunk(3, dim=0)


def in_heads(part, n_head):
    """(C, C) -> (H, D, C): each head's rows."""
    return part.unflatten(0, (n_head, -1))


def split(weight, n_head, *, cut=thirds, order=(0, 1, 2), share=in_heads):
    """Queries, keys and values (3, H, D, C), with a place for every slip."""
    parts = cut(weight, n_head)
    return torch.stack([share(parts[place], n_head) for place in order])


def split_weight(weight, n_head):
    return split(weight, n_head)


CUT = {
    "the thirds still lie as they were released, (in, out), and ours are (out, in): transpose": lambda weight, H: (
        weight.chunk(3, dim=1)
    ),
    "the numbers are cut in the order in which they lie, where each row holds a piece of q, one of k and one of v": (
        lambda weight, H: weight.reshape(3, len(weight), -1)
    ),
    "every third column is taken: the columns of the queries stand side by side, then those of the keys": (
        lambda weight, H: [weight[:, i::3].mT for i in range(3)]
    ),
    "q, k and v stand together for each head, as in some other models: here all queries come first": lambda weight, H: (
        weight.mT.unflatten(0, (H, 3, -1)).transpose(0, 1).flatten(1, 2)
    ),
}
ORDER = {
    "queries and keys are exchanged: the order is q, k, v": (1, 0, 2),
    "keys and values are exchanged: the order is q, k, v": (0, 2, 1),
    "the values come first: the order is q, k, v": (2, 0, 1),
    "the order is reversed: it is q, k, v": (2, 1, 0),
    "the queries come last: the order is q, k, v": (1, 2, 0),
    "all three are the queries": (0, 0, 0),
}
SHARE = {
    "heads take turns, row by row: a head's rows stand side by side": lambda part, H: part.unflatten(
        0, (-1, H)
    ).transpose(0, 1),
    "each head is (in, out), and (D, C) is asked for: the outputs of a head are its rows": lambda part, H: (
        in_heads(part, H).mT
    ),
    "the columns are shared out among the heads: each head reads all channels, and the rows are shared out": (
        lambda part, H: part.unflatten(1, (H, -1)).transpose(0, 1)
    ),
    "the heads are not taken apart: (H, D, C) is asked for, and this is (C, C)": lambda part, H: part,
    "H and D are exchanged: n_head is the number of heads, and D is what is left for each": lambda part, H: (
        part.unflatten(0, (-1, H))
    ),
    "the heads stand on the axis in the middle: transpose": lambda part, H: in_heads(part, H).transpose(0, 1),
    "only the first head is there": lambda part, H: in_heads(part, H)[:1],
    "the heads are in reverse order": lambda part, H: in_heads(part, H).flip(0),
}


@exercise
def split_qkv(answer):
    """A function weight (C, 3C), n_head -> q, k, v, each (H, D, C)."""

    def table(C):
        """Numbers that tell where they stand: row and column."""
        return 100.0 * torch.arange(1, C + 1)[:, None] + torch.arange(3 * C)

    cases = [(table(2), 2), (table(2), 1), (table(4), 2), (table(6), 2), (table(6), 3), (tensors(0, (12, 36))[0], 4)]

    def use(answer, weight, n_head):
        result = answer(weight, n_head)
        if isinstance(result, torch.Tensor) and result.ndim and len(result) == 3:
            result = result.unbind()
        if result is None:
            return None
        if not isinstance(result, (tuple, list)) or len(result) != 3:
            size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
            raise Mistake(f"Not yet: it returns {a(result)}{size}, and three tensors are expected: q, k and v.")
        for name, part in zip("qkv", result):
            if not isinstance(part, torch.Tensor):
                raise Mistake(f"Not yet: {name} is {a(part)}, and a tensor is expected.")
        if len({(part.shape, part.dtype, part.device) for part in result}) > 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in result)
            raise Mistake(f"Not yet: q, k and v must be alike in shape and type; their shapes are {shapes}.")
        return torch.stack(tuple(result))

    def which(result, weight, n_head):
        """A clue: which of the three differ, if not all do."""
        wrong = [name for name, *pair in zip("qkv", result, split_weight(weight, n_head)) if not same(*pair)]
        return f"the numbers differ in {' and '.join(wrong)}, and only there" if len(wrong) < 3 else None

    slips = [("cut", CUT), ("order", ORDER), ("share", SHARE)]
    try:
        examine(answer, cases, split_weight, mistakes_of(split, slips), clues=[which], call=use)
    except Mistake as mistake:
        said = str(mistake).replace("Not yet: the shape is", "Not yet: stacked, the shape of the three is", 1)
        raise Mistake(said) from None
    return "queries, keys and values of every head, row by row, for matrices of four widths."


# --- the first difference -----------------------------------------------------------------------------------------


class Place(str):
    """The number of a state, or None; shown without quotation marks."""

    __repr__ = str.__str__


def gaps(ours, theirs):
    return (ours - theirs).abs().flatten(1)


def first_of(places, nowhere=None):
    """The first place that is true."""
    places = [i for i, here in enumerate(places.tolist()) if here]
    return Place(places[0] if places else nowhere)


def beyond(ours, theirs, tolerance):
    """Whether each pair of states differs (L,): nan is within no tolerance."""
    return ~(gaps(ours, theirs).amax(1) <= tolerance)


def parting(ours, theirs, tolerance):
    return first_of(beyond(ours, theirs, tolerance))


def relative(ours, theirs, tolerance, rtol=1e-5):
    return first_of(~(gaps(ours, theirs) <= tolerance + rtol * theirs.abs().flatten(1)).all(1))


def last_of(places):
    places = places.nonzero().flatten().tolist()
    return Place(places[-1] if places else None)


def or_at_0(found, other):
    """`found or other`, where 0 counts as nothing."""
    return Place(other) if found in ("0", "None") else found


DIFFERENCES = {
    "the state with the largest difference is not the first one that differs: what went wrong below goes on above": (
        lambda o, t, tol: (
            Place(int(gaps(o, t).amax(1).nan_to_num(math.inf).argmax())) if beyond(o, t, tol).any() else Place(None)
        )
    ),
    "the largest difference, also where all lie within the tolerance; and it need not be the first": (
        lambda o, t, tol: Place(int(gaps(o, t).amax(1).nan_to_num(math.inf).argmax()))
    ),
    "this is the last state that differs: the first one is asked for": lambda o, t, tol: last_of(beyond(o, t, tol)),
    "this is the first state that agrees": lambda o, t, tol: first_of(~beyond(o, t, tol)),
    "this is how many states differ": lambda o, t, tol: Place(int(beyond(o, t, tol).sum())),
    "the states are counted from 1: the first is 0": lambda o, t, tol: Place(
        first_of(beyond(o, t, tol)) if not beyond(o, t, tol).any() else int(first_of(beyond(o, t, tol))) + 1
    ),
    "this is the block that makes the state: the number of the state is asked for": lambda o, t, tol: Place(
        int(parting(o, t, tol)) - 1 if beyond(o, t, tol).any() else None
    ),
    "the mean difference is compared: one number that differs is a difference": lambda o, t, tol: first_of(
        ~(gaps(o, t).mean(1) <= tol)
    ),
    "the mean difference is compared, and positive and negative ones cancel": lambda o, t, tol: first_of(
        ~((o - t).flatten(1).mean(1).abs() <= tol)
    ),
    "the root of the mean square is compared: one number that differs is a difference": lambda o, t, tol: first_of(
        ~(gaps(o, t).square().mean(1).sqrt() <= tol)
    ),
    "the mean square is compared, which is smaller than small differences": lambda o, t, tol: first_of(
        ~(gaps(o, t).square().mean(1) <= tol)
    ),
    "the length of the whole difference is compared, which grows with the number of channels": lambda o, t, tol: (
        first_of(~(gaps(o, t).square().sum(1).sqrt() <= tol))
    ),
    "the differences of a state are added up, and each number must lie within the tolerance": lambda o, t, tol: (
        first_of(~(gaps(o, t).sum(1) <= tol))
    ),
    "the sign counts: a number may be too low as well as too high": lambda o, t, tol: first_of(
        ~((o - t).flatten(1).amax(1) <= tol)
    ),
    "the sign counts: a number may be too high as well as too low": lambda o, t, tol: first_of(
        ~((t - o).flatten(1).amax(1) <= tol)
    ),
    "the signs are taken away before the subtraction: -1 and 1 differ by 2": lambda o, t, tol: first_of(
        ~(gaps(o.abs(), t.abs()).amax(1) <= tol)
    ),
    "the smallest difference of a state is compared: one number that differs is enough": lambda o, t, tol: first_of(
        ~(gaps(o, t).amin(1) <= tol)
    ),
    "only the first number of each state is compared": lambda o, t, tol: first_of(~(gaps(o, t)[:, 0] <= tol)),
    "only the last number of each state is compared": lambda o, t, tol: first_of(~(gaps(o, t)[:, -1] <= tol)),
    "the tolerance is not used: rounding alone makes a difference": lambda o, t, tol: first_of(
        ~(gaps(o, t).amax(1) <= 0)
    ),
    "`allclose` allows a share of the number as well, 1e-5 of it unless you say `rtol=0`": relative,
    "`allclose` without the tolerance asks for its own, 1e-8 and a share of the number": lambda o, t, tol: relative(
        o, t, 1e-8
    ),
    "the tolerance is taken for a share of the number": lambda o, t, tol: relative(o, t, 0, rtol=tol),
    "the tolerance is taken for a share of the number, on top of its own 1e-8": lambda o, t, tol: relative(
        o, t, 1e-8, rtol=tol
    ),
    "nan is not noticed: `nan > tolerance` is false, and so is every comparison with nan": lambda o, t, tol: first_of(
        gaps(o, t).amax(1) > tol
    ),
    "nan is not noticed: every comparison with nan is false": lambda o, t, tol: first_of((gaps(o, t) > tol).any(1)),
    "nan is noticed in `ours` only: `theirs` may hold one too": lambda o, t, tol: first_of(
        o.isnan().flatten(1).any(1) | (gaps(o, t) > tol).any(1)
    ),
    "nan in both counts as no difference: it is one, wherever it stands": lambda o, t, tol: first_of(
        ~((gaps(o, t) <= tol) | (o.isnan() & t.isnan()).flatten(1)).all(1)
    ),
    "a difference of exactly the tolerance is within it": lambda o, t, tol: first_of(~(gaps(o, t).amax(1) < tol)),
    "state 0 is never looked at": lambda o, t, tol: first_of(beyond(o, t, tol) & (torch.arange(len(o)) > 0)),
    "the last state is never looked at": lambda o, t, tol: first_of(
        beyond(o, t, tol) & (torch.arange(len(o)) < len(o) - 1)
    ),
    "state 0 is taken for nothing: 0 is false, and it is a place": lambda o, t, tol: or_at_0(parting(o, t, tol), None),
    "where no state differs, -1 comes back: None is asked for": lambda o, t, tol: first_of(beyond(o, t, tol), -1),
    "where no state differs, 0 comes back, as if it were the first: None is asked for": lambda o, t, tol: first_of(
        beyond(o, t, tol), 0
    ),
    "where no state differs, the number of states comes back: None is asked for": lambda o, t, tol: first_of(
        beyond(o, t, tol), len(o)
    ),
    "where no state differs, the last one comes back: None is asked for": lambda o, t, tol: first_of(
        beyond(o, t, tol), len(o) - 1
    ),
    "only state 0 is looked at: the loop ends where it begins": lambda o, t, tol: Place(
        0 if beyond(o, t, tol)[0] else None
    ),
    "no difference is found anywhere: is the `return` missing?": lambda o, t, tol: Place(None),
    "always state 0": lambda o, t, tol: Place(0),
}


def pairs_of_states():
    """(ours, theirs, tolerance), one row a state; then states of positions and channels, as a model has them."""
    zeros = torch.zeros(3, 2)
    first = torch.tensor([[0.0, 0.0], [0.0, -0.5], [2.0, 0.0]])
    small = torch.tensor([[0.25, -0.25], [0.0, 0.25], [0.0, 0.75], [0.0, 0.25]])
    at_once = torch.tensor([[0.75, 0.0], [0.25, 0.0], [0.0, -1.0]])
    nan = torch.tensor([[0.0, 0.0], [0.0, math.nan], [1.0, 0.0]])
    signs = torch.tensor([[0.25, -2.0], [0.5, 0.75], [1.0, 0.0]])
    exactly = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.25, 0.75]])
    spread = torch.tensor([[0.25, 0.375], [0.4375, 0.375], [0.0, -0.75]])
    opposite = torch.tensor([[0.0, 0.0], [0.75, -0.75], [1.0, 2.0]])
    middle = torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.75, 0.0], [0.25, 0.0, -3.0], [1.0, 1.0, 1.0]])
    large = torch.tensor([[1e5, -1e5], [1e5 + 0.75, 3.0], [1e5 + 2, 5.0]])
    cases = [(first, zeros, 0.25), (zeros, zeros.clone(), 0.25), (small, 0 * small, 0.5), (at_once, zeros, 0.5)]
    cases += [
        (exactly, zeros, 0.5),
        (spread, zeros, 0.5),
        (opposite, zeros, 0.5),
        (middle, 0 * middle, 0.5),
        (zeros + 1, zeros + 1.25, 0.5),
        (zeros, first, 0.25),
    ]
    cases += [(large, torch.tensor([[1e5, -1e5], [1e5, 3.0], [1e5, 5.0]]), 0.5), (nan, zeros, 0.5)]
    cases += [(zeros, nan, 0.5), (nan, nan * torch.tensor([[1.0], [1.0], [2.0]]), 0.5)]
    cases += [(signs, signs * torch.tensor([[1.0], [-1.0], [1.0]]), 0.5)]
    states = torch.randn(7, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    noise = 1e-6 * torch.randn(7, 1, 5, 8, generator=torch.Generator().manual_seed(1))
    fault = torch.zeros(7, 1, 5, 8)
    fault[3:, 0, 2, 5] = torch.tensor([-3e-3, -2e-3, 1e-3, -9e-3])
    cases += [(states + noise, states, 1e-4), (states + noise + fault, states, 1e-4)]
    return cases


ALTERED = torch.randint(6, (1,), generator=torch.Generator().manual_seed(12)).item()  # as the notebook draws it


@exercise
def first_difference(answer, block):
    """A function ours, theirs, tolerance -> the first state that differs or None; and the block that was altered."""

    def use(answer, ours, theirs, tolerance):
        given = [list(states.clone().unbind()) for states in (ours, theirs)]
        result = answer(*given, tolerance)
        if [len(states) for states in given] != [len(ours), len(theirs)]:
            raise Mistake("Not yet: it changes the lists that it is given.")
        for before, after in zip((ours, theirs), given):
            if not torch.equal(before.nan_to_num(7), torch.stack(after).nan_to_num(7)):
                raise Mistake("Not yet: it changes the states that it is given; work on a copy.")
        if result is None:
            return Place(None)
        value = None if isinstance(result, bool) else plain(result)
        if value is None or not float(value).is_integer():
            raise Mistake(f"Not yet: it returns {told_of(result)}, and the number of a state or None is expected.")
        return Place(int(value))

    cases = pairs_of_states()
    try:
        examine(answer, cases, expected=parting, mistakes=DIFFERENCES, call=use)
    except Mistake as mistake:
        raise explained(mistake, gap_there, answer, cases) from None
    others = {
        other: f"block {other} is given other numbers than it should, and computes with them as it should; some block "
        "before it does not"
        if other > ALTERED
        else f"the state that leaves block {other} is right"
        for other in range(6)
        if other != ALTERED
    }
    others[ALTERED + 1] = (
        "that is the number of the state, and state 0 comes from the embeddings: which block makes this one?"
    )
    try:
        number(block, ALTERED, others)
    except Mistake as mistake:
        said = str(mistake).replace("Not yet:", "Not yet: the function is right; the block is not:", 1)
        raise Mistake(said) from None
    return f"the first state that differs in seventeen pairs of lists; and block {ALTERED} is the one that was altered."


def told_of(result):
    """A bool by its name, a number that is no place by its value, any other thing by its kind."""
    known = isinstance(result, (bool, float, int))
    return shortened(result) if known else a(result)


def gap_there(answer, cases):
    """What can be said of the first wrong place: how far apart the states are there."""
    for ours, theirs, tolerance in cases:
        found, right = answer(list(ours.clone()), list(theirs.clone()), tolerance), parting(ours, theirs, tolerance)
        if str(found if found is None else int(found)) == right:
            continue
        if found is None:
            return f"it finds nothing, and state {right} differs"
        if not 0 <= int(found) < len(ours):
            return f"there is no state {int(found)}: the lists hold {len(ours)}, counted from 0"
        gap = gaps(ours, theirs)[int(found)].amax().item()
        if gap <= tolerance:
            return f"in state {int(found)} no number differs by more than {gap:.3g}, and the tolerance is {tolerance:g}"
        return f"state {int(found)} differs, and state {right} before it too"
    return "the result differs"


# --- the loss in windows that overlap -----------------------------------------------------------------------------


def sliding(N, context, stride):
    """The windows as (start, end, first): inputs start … end - 1, of which those from `first` on are scored."""
    found, first = [], 0
    for start in range(0, N - 1, stride):
        end = min(start + context, N - 1)
        found.append((start, end, first))
        first = end
        if end == N - 1:
            break
    return found


def losses(ids, windows, moved=1):
    """The losses of each window's predictions that are scored, a list of (n,)."""
    found = []
    for start, end, first in windows:
        with torch.no_grad():
            logits = Reader(end - start).eval()(ids[None, start:end])[0]
        found.append(F.cross_entropy(logits, ids[start + moved : end + moved], reduction="none")[first - start :])
    return found


def mean_of(found, ids, windows):
    return torch.cat(found).mean().item()


def loss(ids, context, stride, *, windows=sliding, join=mean_of, moved=1):
    planned = windows(len(ids), context, stride)
    return join(losses(ids, planned, moved), ids, planned)


def sliding_mean(ids, context, stride):
    return loss(ids, context, stride)


def by_context(N, context, stride):
    return sliding(N, context, context)


def one_by_one(N, context, stride):
    return sliding(N, context, 1)


def the_rest(N, context, stride):
    """Windows that move by the overlap."""
    return sliding(N, context, context - stride)


def all_of_each(N, context, stride):
    return [(start, end, start) for start, end, _ in sliding(N, context, stride)]


def last_of_each(N, context, stride):
    return [(start, end, max(start, end - stride)) for start, end, _ in sliding(N, context, stride)]


def last_of_the_others(N, context, stride):
    return sliding(N, context, stride)[:1] + last_of_each(N, context, stride)[1:]


def first_of_each(N, context, stride):
    return [(start, min(start + stride, N - 1), start) for start, _, _ in sliding(N, context, stride)]


def full_alone(N, context, stride):
    return [window for window in sliding(N, context, stride) if window[1] - window[0] == context]


def without_first(N, context, stride):
    return sliding(N, context, stride)[1:]


def without_last(N, context, stride):
    return sliding(N, context, stride)[:-1]


def moved_back(N, context, stride):
    *others, (start, end, first) = sliding(N, context, stride)
    return [*others, (max(0, end - context), end, first)]


def to_the_very_end(N, context, stride):
    """Windows at every multiple of the stride, also where all is scored already; the last `stride` of each."""
    windows = [(start, min(start + context, N - 1)) for start in range(0, N - 1, stride)]
    return [(start, end, start if start == 0 else max(start, end - stride)) for start, end in windows]


def one_short(N, context, stride):
    """A window of `context` tokens, of which the last is a target only."""
    return [(start, end, max(start, first)) for start, end, first in sliding(N, context - 1, stride)]


WINDOWS = {
    "every token of every window is scored: those in the overlap count twice": all_of_each,
    "the first window scores its last `stride` tokens only, and nothing else predicts those before them": last_of_each,
    "the last window is shorter and has fewer new tokens than `stride`: some are scored twice": last_of_the_others,
    "the last window is shorter, and its last `stride` tokens and those of windows behind it are scored again": (
        to_the_very_end
    ),
    "the windows lie side by side: each begins `stride` tokens after the one before it, not `context`": by_context,
    "each token has a window of its own: the windows move by `stride`": one_by_one,
    "the windows move by the overlap, context - stride: they move by `stride`": the_rest,
    "each window scores its first `stride` tokens, which have the least before them": first_of_each,
    "the last window, which is shorter, is left out": full_alone,
    "the first window is left out": without_first,
    "the last window is left out": without_last,
    "the last window is moved back to be full: here it begins one stride after the one before it, and is shorter": (
        moved_back
    ),
    "the windows read one token less than `context`: their last target is not read, and is no part of it": one_short,
}
JOINS = {
    "a mean of the windows' means: the first window predicts more tokens than the others": lambda found, *_: (
        torch.stack([part.mean() for part in found]).mean().item()
    ),
    "a sum, not a mean: divide by the number of predictions": lambda found, *_: torch.cat(found).sum().item(),
    "divided by the number of tokens: the first is never predicted": lambda found, ids, _: (
        torch.cat(found).sum().item() / len(ids)
    ),
    "divided by the number of windows: divide by the number of predictions": lambda found, *_: (
        torch.cat(found).sum().item() / len(found)
    ),
    "divided by the number of tokens that are read: those in the overlap are read twice and scored once": (
        lambda found, ids, windows: torch.cat(found).sum().item() / sum(end - start for start, end, _ in windows)
    ),
    "this is the perplexity, e to the loss": lambda found, *_: torch.cat(found).mean().exp().item(),
    "these are bits, not nats": lambda found, *_: torch.cat(found).mean().item() / math.log(2),
    "the sign is wrong": lambda found, *_: -torch.cat(found).mean().item(),
}
MOVED = {"targets equal inputs: nothing is predicted": 0}


def over_all(found, ids, windows):
    """The sum divided by the number of predictions that a text holds, however many have been scored."""
    return torch.cat(found).sum().item() / (len(ids) - 1)


class Patient(Reader):
    """A reader that is not asked for ever."""

    def forward(self, idx):
        if len(self.read) > 200:
            raise Mistake("Not yet: more than 200 windows are read of a text of a few tokens: when does the loop end?")
        return super().forward(idx)


@exercise
def sliding_loss(answer):
    """A function logits_of, ids, context, stride -> loss: each token but the first is predicted once."""
    ids = torch.tensor([0, 1, 3, 2, 2, 1, 0, 3, 1, 1, 2, 0, 3, 0, 0, 1])
    cases = [(ids[:6], 3, 1), (ids[:8], 4, 2), (ids[:9], 4, 1), (ids[:12], 5, 2)]
    cases += [(ids, 6, 4), (ids[:14], 4, 3), (ids, 5, 3)]

    def use(answer, ids, context, stride):
        model = Patient(context).eval()
        result = answer(model, ids, context, stride)
        if not model.read:
            raise Mistake("Not yet: `logits_of` is never asked.")
        return result

    slips = [("windows", WINDOWS), ("join", JOINS), ("moved", MOVED)]
    mistakes = {why: partial(loss, windows=windows) for why, windows in WINDOWS.items()}
    for why, windows in WINDOWS.items():
        mistakes[f"{why}; the division by N - 1 is right"] = partial(loss, windows=windows, join=over_all)
    mistakes |= mistakes_of(loss, slips)
    # no overlap, where a step of context - stride would stand still, and texts of one window
    special = [(ids[:9], 4, 4), (ids[:2], 1, 1), (ids[:4], 8, 2), (ids[:5], 4, 3)]
    for some, known in ((cases, mistakes), (special, {})):
        try:
            examine(answer, some, expected=sliding_mean, mistakes=known, call=use)
        except Mistake as mistake:
            raise explained(mistake, reading, answer, some) from None
    return "every token but the first is predicted once, in eleven texts, with stride 1, with no overlap, and between."


def reading(answer, cases):
    """How the text of the first wrong case was read."""
    for ids, context, stride in cases:
        model = Patient(context).eval()
        value = plain(answer(model, ids.clone(), context, stride))
        if abs(value - sliding_mean(ids, context, stride)) <= 1e-4 * max(1, abs(value)):
            continue
        planned = [(start, end) for start, end, _ in sliding(len(ids), context, stride)]
        expected = [ids[start:end].tolist() for start, end in planned]
        if sorted(model.read) == sorted(expected):
            return "the windows are right: look at which of their predictions are scored, and at what they become"
        if len(model.read) != len(expected):
            return f"{len(model.read)} windows are read, expected {len(expected)}"
        place = next((i for i, (one, other) in enumerate(zip(model.read, expected)) if one != other), 0)
        start, end = planned[place]
        return f"window {place} should be tokens {start} to {end - 1}, {expected[place]}, and it is {model.read[place]}"
    return "the result differs"
