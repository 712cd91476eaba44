"""Draw the README's picture, images/attention.png, and print the sample of text beside it: `make pictures`.

Of all heads of the trained model, it shows the one with the largest mean attention weight on the latest space. Before
it draws, `check` makes sure that the title and the README's alternative text are true of that map.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import gptlib

ROOT = Path(__file__).resolve().parent.parent
PASSAGE = "To be, or not to be"


def check(weights: torch.Tensor) -> None:
    """AssertionError unless all letters after the first word attend most to the space before theirs."""
    letters = [t for t, character in enumerate(PASSAGE) if character.isalpha() and " " in PASSAGE[:t]]
    others = [t for t in letters if weights[t].argmax() != PASSAGE.rfind(" ", 0, t)]
    assert not others and len(letters) == 11, f"letters {others} attend most to another position"
    by_weight = sorted(letters, key=lambda t: weights[t, PASSAGE.rfind(" ", 0, t)].item())
    assert by_weight[:2] == [10, 15], "the palest letters are others than the alternative text says"


def main() -> None:
    model, tokenizer = gptlib.pretrained.load("shakespeare-gpt")
    with gptlib.probe.attention(model) as maps:
        model(torch.tensor([tokenizer.encode(PASSAGE)]))
    heads = torch.cat([layer[0] for layer in maps])  # (all heads, T, T)
    rows = range(3, len(PASSAGE))
    latest_space = [PASSAGE.rfind(" ", 0, row + 1) for row in rows]
    best = heads[heads[:, list(rows), latest_space].mean(dim=-1).argmax()]
    check(best)
    gptlib.plot.attention(best, list(PASSAGE), numbers=False)
    plt.gca().set_title("In this head, the letters of a word attend most to the space before it")
    plt.savefig(ROOT / "images" / "attention.png", dpi=100, facecolor="white", metadata={"Software": None})

    prompt = torch.tensor([tokenizer.encode("ROMEO:\n")])
    idx = gptlib.generate(model, prompt, 300, generator=torch.Generator().manual_seed(8))
    print(tokenizer.decode(idx[0].tolist()))


if __name__ == "__main__":
    main()
