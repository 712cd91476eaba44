"""The field's terms, not private ones: what the prose, the docstrings and the messages of the course do not say.

WORDS gives a pattern and what to write instead; CONTRIBUTING has the rule behind it. A true use goes to ALLOWED.
"""

import io
import re
import tokenize
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent

WORDS = {
    r"(training|validation) part": "training set, validation set (or split)",
    r"lessons?": "training example, prediction",
    r"surprises?|(?<!be )surprised": "surprisal, negative log-likelihood; cross-entropy is its mean",
    r"what came( next)?(?= after|\b[.,:;])": "the target",
    r"(table of )?chances": "probabilities",
    r"luck|lucky": "randomness",
    r"opinions?": "prediction",
    r"imagined ones": "pseudo-counts",
    r"misplaced": "total variation distance",
    r"numbers learned|learned numbers": "parameters",
    r"draw of lots|a draw|draws? lots": "a sample",
    r"likeliest|commonest|rarest": "the most likely, the most frequent, the least frequent",
    r"(?<!decimal )places": "positions, indices, table entries, locations",
    r"recipes?": "attention weights; settings",
    r"hears?|heard|listens?": "attends to; depends on",
    r"beside x|with the gift|side streets?|the road": "with a skip connection; residual stream; sublayers",
    r"bends?|bent": "nonlinearity, activation function",
    r"(learned|its) gain|gain and (bias|shift)|gains? of (a|the) norm": "scale",
    r"(?<!standard )deviations?": "standard deviation, variance, difference",
    r"loud|louder|loudness|quiet|quieter": "large, small (activations, variance)",
    r"pok(e|es|ed|ing)": "perturb",
    r"ma[dk]e up (its|their) minds?": "saturated, peaked, low entropy",
    r"nobody": "it was not given …; learned",
    r"noisy judge": "a noisy estimate",
    r"by heart|recites?": "memorized; overfits",
    r"notes that PyTorch": "the autograd graph, gradient tracking",
    r"types? of numbers?": "dtype",
    r"whole numbers?": "integers",
    r"whole or not at all": "atomically",
    r"the processor": "the CPU",
    r"pre-?splitting": "pre-tokenization",
    r"released layout": "the Hugging Face layout",
    r"witness(es)?": "an independent implementation",
    r"(at )?equal work": "with the same number of steps (tokens, seconds)",
    r"mistakes? that people make": "common mistake",
    r"(first|second|third) way": "method 1, 2, 3",
    r"few rows": "small batches",
    r"reads? on from": "continues from cached keys and values",
    r"habits?": "convention; what a head does",
    r"in vain|tamed|closed box": "plain words",
    r"simply|obviously": "nothing",
    r"(nats?|bits?|bytes?|tokens?|rows?|norms?|numbers?|ids?|scores?|characters|seconds|steps|weights|heads?|vectors?)"
    r" an? (character|token|layer|head|position|step|second|word|row|channel|byte|model|batch|pair|letter)": "per",
    r"\w*(colour|neighbour|behaviour|favour|labour|flavour|honour)\w*": "American spelling: -or",
    r"greys?": "American spelling: gray",
    r"\w*(normal|initial|memor|general|regular|optim|token|quant|summar|visual|recogn|minim|maxim|special)"
    r"is(e|es|ed|ing|ation|er|ers)": "American spelling: -ize",
}
PATTERN = re.compile("|".join(f"(?P<w{i}>\\b(?:{word})\\b)" for i, word in enumerate(WORDS)), re.IGNORECASE)

ALLOWED: dict[str, set[str]] = {  # file -> what it may say, with the words around it
    "notebooks/08_sampling.ipynb": {"neighbour Baptista"},  # Shakespeare's spelling
}


def said(text: str) -> list[str]:
    """What a text should not say, each with what to write instead.

    >>> said("The likeliest token, at 2 nats a token")
    ["'likeliest': write the most likely, the most frequent, the least frequent", "'nats a token': write per"]
    """
    found = []
    for match in PATTERN.finditer(text):
        instead = list(WORDS.values())[int(str(match.lastgroup)[1:])]
        found.append(f"{match[0]!r}: write {instead}")
    return found


def english(path: Path) -> list[str]:
    """The parts of a file that are English: prose, comments and strings."""
    if path.suffix == ".ipynb":
        parts = []
        for cell in nbformat.read(path, as_version=4).cells:
            parts += [cell.source] if cell.cell_type == "markdown" else english_of_code(cell.source)
        return parts
    text = path.read_text(encoding="utf-8")
    return english_of_code(text) if path.suffix == ".py" else [text]


def english_of_code(code: str) -> list[str]:
    names = ("COMMENT", "STRING", "FSTRING_MIDDLE")
    kinds = {getattr(tokenize, name) for name in names if hasattr(tokenize, name)}
    return [token.string for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type in kinds]


FILES = sorted(
    path
    for pattern in (
        "*.md",
        "notebooks/*.ipynb",
        "notebooks/*.md",
        "notebooks/checks/*.py",
        "gptlib/**/*.py",
        "data/*.md",
        "data/*/README.md",
        "images/*.md",
        "images/*.svg",
        "tools/*.py",
    )
    for path in ROOT.glob(pattern)
    if path.name not in ("CONTRIBUTING.md", "CHANGELOG.md")  # they quote what is not to be said
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_course_speaks_the_language_of_the_field(path):
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix(), set())
    parts = english(path)
    for use in allowed:
        assert any(use in part for part in parts), f"{use!r} is allowed, and not there any more"
        parts = [part.replace(use, "") for part in parts]
    assert [fault for part in parts for fault in said(part)] == []
