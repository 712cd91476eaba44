"""Conversations as tokens, worked out by hand, and the loss on answers against PyTorch's own."""

import pytest
import torch
from torch.nn import functional as F

from gptlib.bpe import BPETokenizer
from gptlib.finetuning import IGNORE, SMOLLM2, STORIES, ChatTemplate, answer_loss, chat_prompt, pad, tokenize_chat
from gptlib.model import GPT, GPTConfig
from gptlib.sampling import generate

LETTERS = BPETokenizer([], ["<b>", "<e>"])  # the other tokens are bytes
TEMPLATE = ChatTemplate({"user": ("Q", ";"), "assistant": ("A", "<e>\n"), "system": ("S", ";")}, "<b>", ("<b>", "<e>"))
STORY = [("user", "hi"), ("assistant", "yo")]


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def written(ids, tokenizer=LETTERS):
    """Tokens as text; `.` stands for a target that is ignored."""
    return "".join("." if i == IGNORE else tokenizer.vocabulary[i].decode() for i in ids.tolist())


# --- ids and targets ----------------------------------------------------------------------------------------------


def test_the_answer_and_its_end_token_count_and_nothing_else():
    ids, targets = tokenize_chat(chat(*STORY), LETTERS, TEMPLATE)
    assert written(ids) == "<b>Qhi;Ayo<e>" and written(targets) == "." * 5 + "yo<e>."
    assert ids.shape == targets.shape == (9,) and ids.dtype == targets.dtype == torch.int64
    assert (targets[5:8] == ids[6:9]).all()  # the next ids


def test_every_answer_of_a_conversation_counts():
    ids, targets = tokenize_chat(chat(*STORY, ("user", "go"), ("assistant", "on")), LETTERS, TEMPLATE)
    assert written(ids) == "<b>Qhi;Ayo<e>\nQgo;Aon<e>"
    assert written(targets) == "." * 5 + "yo<e>" + "." * 6 + "on<e>."


def test_a_system_message_takes_the_place_of_the_default():
    ids, targets = tokenize_chat(chat(("system", "be"), *STORY), LETTERS, TEMPLATE)
    assert written(ids) == "Sbe;Qhi;Ayo<e>" and written(targets) == "." * 8 + "yo<e>."


def test_a_template_may_have_no_special_tokens_and_no_end():
    bare = ChatTemplate({"user": ("", ""), "assistant": ("", "")})
    ids, targets = tokenize_chat(chat(*STORY), LETTERS, bare)
    assert (written(ids), written(targets)) == ("hiy", ".yo")


def test_no_text_in_a_message_becomes_a_special_token():
    ids, targets = tokenize_chat(chat(("user", "<e>"), ("assistant", "<b><e>")), LETTERS, TEMPLATE)
    special = [LETTERS.encode(token, [token])[0] for token in ("<b>", "<e>")]
    assert [i for i in ids.tolist() if i in special] == special
    assert [i for i in targets.tolist() if i in special] == special[1:]


@pytest.mark.parametrize("template", [TEMPLATE, STORIES, SMOLLM2])
def test_an_answer_begins_where_its_prompt_ends(template):
    tokenizer = BPETokenizer.train("hi yo you" * 9, 261, template.special)
    turns = [*STORY, ("user", "you")]
    prompt, end = chat_prompt(chat(*turns), tokenizer, template)
    ids, targets = tokenize_chat(chat(*turns, ("assistant", "hi yo")), tokenizer, template)
    answer = tokenizer.encode("hi yo")
    assert ids.tolist()[: len(prompt) + len(answer)] == prompt.tolist() + answer
    assert targets[len(prompt) - 1 :].tolist()[: len(answer) + 1] == [*answer, end]
    assert tokenizer.vocabulary[end].decode() in template.special


def test_templates_are_written_out():
    ids, _ = tokenize_chat(chat(*STORY), tokenizer := BPETokenizer([], ["<s>"]), STORIES)
    assert written(ids, tokenizer) == "<s>Instruction:hi\nAnswer:yo"
    prompt, _ = chat_prompt(chat(("user", "hi")), tokenizer := BPETokenizer([], SMOLLM2.special), SMOLLM2)
    assert written(prompt, tokenizer) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("roles", ["", "u", "uau", "a", "au", "uu", "uaa", "ss", "s", "us", "usa", "uasa", "su", "sa"])
def test_roles_out_of_order_or_without_an_answer(roles):
    names = {"u": "user", "a": "assistant", "s": "system"}
    messages = chat(*[(names[role], "x") for role in roles])
    with pytest.raises(ValueError, match="user and assistant take turns, and the last message is an answer"):
        tokenize_chat(messages, LETTERS, TEMPLATE)


def test_a_role_that_the_template_does_not_have():
    with pytest.raises(ValueError, match="the roles are"):
        tokenize_chat(chat(("system", "be"), *STORY), LETTERS, STORIES)


@pytest.mark.parametrize("content", ["", " \n"])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_an_empty_message(content, n):
    messages = chat(("system", "be"), *STORY)
    messages[n]["content"] = content
    with pytest.raises(ValueError, match=f"a message of the role {messages[n]['role']} is empty"):
        tokenize_chat(messages, LETTERS, TEMPLATE)


def test_a_conversation_longer_than_the_context():
    assert len(tokenize_chat(chat(*STORY), LETTERS, TEMPLATE, max_length=9)[0]) == 9
    with pytest.raises(ValueError, match="takes 9 positions, above 8: shorten it"):
        tokenize_chat(chat(*STORY), LETTERS, TEMPLATE, max_length=8)


# --- batches and the loss -----------------------------------------------------------------------------------------

EXAMPLES = [
    (torch.tensor([1, 2, 3, 4, 5]), torch.tensor([IGNORE, IGNORE, 4, 5, 6])),
    (torch.tensor([7, 8, 9]), torch.tensor([IGNORE, 9, 10])),
]


def test_padding_by_hand():
    x, y = pad(EXAMPLES)
    assert x.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 0, 0]]
    assert y.tolist() == [[IGNORE, IGNORE, 4, 5, 6], [IGNORE, 9, 10, IGNORE, IGNORE]]
    longer, targets = pad(EXAMPLES, 8)
    assert longer.shape == targets.shape == (2, 8)
    assert torch.equal(longer[:, :5], x) and (longer[:, 5:] == 0).all() and (targets[:, 5:] == IGNORE).all()
    with pytest.raises(ValueError, match="an example has 5 positions, above length=4"):
        pad(EXAMPLES, 4)


def test_the_loss_is_the_mean_over_what_counts(model):
    x, y = pad(EXAMPLES)
    loss = answer_loss(model, x, y)
    torch.testing.assert_close(loss, F.cross_entropy(model(x).flatten(0, 1), y.flatten()))
    logprobs = [model(ids[None])[0].log_softmax(-1) for ids, _ in EXAMPLES]  # one by one, without padding
    by_hand = [logprobs[0][2, 4], logprobs[0][3, 5], logprobs[0][4, 6], logprobs[1][1, 9], logprobs[1][2, 10]]
    torch.testing.assert_close(loss, -sum(by_hand) / 5)


def test_padding_changes_neither_loss_nor_gradient(model):
    found = []
    for length in (5, 8):
        model.zero_grad()
        loss = answer_loss(model, *pad(EXAMPLES, length))
        loss.backward()
        found.append([loss, *[p.grad.clone()[: 5 if p.shape == (8, 12) else None] for p in model.parameters()]])
    torch.testing.assert_close(*found)


def test_no_target_counts(model):
    x, y = pad(EXAMPLES)
    with pytest.raises(ValueError, match="no target counts"):
        answer_loss(model, x, torch.full_like(y, IGNORE))


def test_training_on_answers_teaches_the_end_token():
    """The model answers each question with its letter doubled, and then ends."""
    tokenizer = BPETokenizer([], ["<b>", "<e>"])
    pairs = [chat(("user", c), ("assistant", c + c)) for c in "abcd"]
    model = GPT(GPTConfig(tokenizer.vocab_size, 16, 2, 2, 32))
    x, y = pad([tokenize_chat(pair, tokenizer, TEMPLATE) for pair in pairs])
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    for _ in range(200):
        loss = answer_loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for pair in pairs:
        prompt, end = chat_prompt(pair[:1], tokenizer, TEMPLATE)
        answer = generate(model, prompt, 8, temperature=0, stop=end)[0, len(prompt) :]
        assert written(answer, tokenizer) == pair[1]["content"] + "<e>"
