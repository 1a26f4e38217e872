"""Everything against a loop that asks for one token at a time."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignstack.core.errors import DataError
from alignstack.training import scores, trainer


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHATS = [
    [user("find the cat"), said("sure here is the cat")],
    [user("how do i bake bread with tea near an old house"), said("no")],
    [user("see a dog"), said("sure"), user("and tea"), said("here is tea and bread")],
]


@pytest.fixture(scope="module")
def moved(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model after some training or other: every weight is a little different."""
    import torch

    model, tokenizer = trainer.load(base)
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * weights.std())
    out = tmp_path_factory.mktemp("moved") / "moved"
    trainer.save(model, tokenizer, out)
    return out


def steps(checkpoint: Path, chat: list[dict[str, str]]) -> Any:
    """Log-probabilities over the vocabulary before each token of the last answer, and those tokens, from prefixes."""
    import torch

    model, tokenizer = trainer.load(checkpoint)
    prefix = tokenizer.apply_chat_template(chat[:-1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    answer = tokenizer(chat[-1]["content"] + "<|end|>", add_special_tokens=False)["input_ids"]
    rows = []
    with torch.no_grad():
        for n in range(len(answer)):
            logits = model(input_ids=torch.tensor([ids + answer[:n]])).logits[0, -1]
            rows.append(torch.log_softmax(logits, -1))
    return torch.stack(rows).numpy(), answer


def one_by_one(checkpoint: Path, chat: list[dict[str, str]]) -> np.ndarray:
    logs, answer = steps(checkpoint, chat)
    return logs[np.arange(len(answer)), answer]


def test_logprob_is_the_sum_over_the_last_answers_tokens(base: Path) -> None:
    expected = [one_by_one(base, chat).sum() for chat in CHATS]
    np.testing.assert_allclose(scores.logprob(*trainer.load(base), CHATS), expected, rtol=1e-5)


def test_per_token_is_the_mean(base: Path) -> None:
    expected = [one_by_one(base, chat).mean() for chat in CHATS]
    np.testing.assert_allclose(scores.logprob(*trainer.load(base), CHATS, per_token=True), expected, rtol=1e-5)


def test_padding_changes_nothing(base: Path) -> None:
    loaded = trainer.load(base)
    np.testing.assert_allclose(scores.logprob(*loaded, CHATS, batch=1), scores.logprob(*loaded, CHATS), rtol=1e-5)


def test_a_model_in_training_is_left_as_it_was(base: Path) -> None:
    model, tokenizer = trainer.load(base)
    model.train()
    scores.logprob(model, tokenizer, CHATS)
    assert model.training and all(weights.grad is None for weights in model.parameters())


def test_perplexity_counts_every_answer_of_a_chat(base: Path) -> None:
    answers = [CHATS[0], CHATS[2][:2], CHATS[2]]
    logs = np.concatenate([one_by_one(base, chat) for chat in answers])
    rows = [{"messages": CHATS[0]}, {"messages": CHATS[2]}]
    assert scores.perplexity(*trainer.load(base), rows) == pytest.approx(math.exp(-logs.mean()), rel=1e-5)


def test_perplexity_of_nothing_is_an_error(base: Path) -> None:
    with pytest.raises(DataError, match="at least one chat"):
        scores.perplexity(*trainer.load(base), [])


def test_drift_is_the_log_odds_of_refusing(base: Path) -> None:
    asked = [user("find the cat")]
    refusal, compliance = (one_by_one(base, [*asked, said(text)]) for text in ("no", "sure here is the cat"))
    items = [(asked, "no", "sure here is the cat"), (asked, "sure here is the cat", "no")]
    expected = refusal.sum() - compliance.sum()
    assert scores.drift(base, items) == pytest.approx([expected, -expected], rel=1e-4)
    by_token = refusal.mean() - compliance.mean()
    assert scores.drift(base, items, per_token=True) == pytest.approx([by_token, -by_token], rel=1e-4)


def pairs() -> list[dict[str, Any]]:
    texts = [("the cat", "sure here", "no"), ("a dog", "tea", "bread and tea"), ("tea", "find it", "an old house")]
    return [{"prompt": [user(p)], "chosen": [said(c)], "rejected": [said(r)]} for p, c, r in texts]


def test_margins_are_implicit_rewards(base: Path, moved: Path) -> None:
    def reward(row: dict[str, Any], side: str) -> float:
        chat = [*row["prompt"], *row[side]]
        return 0.3 * (one_by_one(moved, chat).sum() - one_by_one(base, chat).sum())

    expected = [reward(row, "chosen") - reward(row, "rejected") for row in pairs()]
    np.testing.assert_allclose(scores.margins(moved, base, pairs(), beta=0.3), expected, rtol=1e-3, atol=1e-5)


def test_nothing_is_learnt_at_the_start(base: Path) -> None:
    margins = scores.margins(base, base, pairs())
    np.testing.assert_array_equal(margins, 0)
    assert scores.never_learnt(margins) == [0, 1, 2]


def test_pairs_never_learnt_come_worst_first() -> None:
    assert scores.never_learnt(np.array([0.4, -0.1, 0.02, -2.0])) == [3, 1]
    assert scores.never_learnt(np.array([0.4, -0.1, 0.02, -2.0]), floor=0.05) == [3, 1, 2]


def test_kl_is_exact_at_every_position(base: Path, moved: Path) -> None:
    expected = []
    for chat in CHATS:
        ours, theirs = steps(moved, chat)[0], steps(base, chat)[0]
        expected.append((np.exp(ours) * (ours - theirs)).sum())
    found = scores.divergence(moved, base, CHATS)
    np.testing.assert_allclose(found.per_answer, expected, rtol=1e-3)
    assert found.tokens == sum(len(steps(base, chat)[1]) for chat in CHATS)
    assert found.mean == pytest.approx(sum(expected) / found.tokens, rel=1e-3)
    assert found.mean > 0.001


def test_kl_from_itself_is_nothing(base: Path) -> None:
    assert scores.kl(base, base, CHATS) == 0


def test_requests_are_answered_by_the_policy_first(base: Path, moved: Path) -> None:
    asked = [chat[:1] for chat in CHATS] * 4
    first = scores.divergence(moved, base, asked, max_tokens=40, seed=1)
    answers = trainer.generate(*trainer.load(moved), asked, max_tokens=40, temperature=1.0, seed=1)
    ended = [[*chat, said(answer)] for chat, answer in zip(asked, answers, strict=True) if answer]
    assert len(first.per_answer) == len(ended) > 0
    assert first.mean == pytest.approx(scores.kl(moved, base, ended), rel=1e-5)
    assert first.mean != scores.kl(moved, base, asked, max_tokens=40, seed=2)


def test_answers_that_never_end_are_named(base: Path, moved: Path) -> None:
    with pytest.raises(DataError, match="within 1 tokens"):
        scores.kl(moved, base, [[user("find the cat")]], max_tokens=1)


def test_a_chat_without_an_answer_is_an_error(base: Path) -> None:
    tokenizer = trainer.load(base)[1]
    with pytest.raises(DataError, match="assistant's turn"):
        scores.encode(tokenizer, [user("find the cat")], last=True)
    with pytest.raises(DataError, match="length limit"):
        scores.encode(tokenizer, CHATS[0], last=True, max_length=3)


def test_only_the_last_answer_counts(base: Path) -> None:
    tokenizer = trainer.load(base)[1]
    last, every = (scores.encode(tokenizer, CHATS[2], last=last) for last in (True, False))
    decoded = [tokenizer.decode([i for i, c in zip(e.ids, e.counted, strict=True) if c]) for e in (last, every)]
    assert decoded == ["here is tea and bread<|end|>", "sure<|end|>here is tea and bread<|end|>"]
