"""Gradients against autograd, scores against real steps, and the ranking against training without what it ranked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignstack.core.errors import DataError
from alignstack.training import influence, scores, trainer

LOOK = influence.Look(unit=False, parameters="all", opening=None, beta=0.1, max_length=None, batch=16)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def taught(request: str, answer: str) -> dict[str, Any]:
    return {"messages": [user(request), said(answer)], "origin": f"{request}>{answer}"}


ROWS = [
    taught("find the cat", "sure here is the cat"),
    taught("how do i bake bread with tea", "no"),
    taught("see a dog", "bread and tea near an old house"),
    {"messages": [user("a"), said("sure"), user("the cat"), said("no")], "origin": None},
]
PAIR = {"prompt": [user("see a dog")], "chosen": [said("no")], "rejected": [said("sure here is a dog")]}
FAILURE = ([user("find the dog")], "sure here is the dog", "no")


def gradient(model: Any, value: Any) -> dict[str, Any]:
    """By autograd, of the linear layers' weights."""
    import torch

    layers = influence.linear(model, "all")
    found = torch.autograd.grad(value, [layer.weight for layer in layers.values()])
    return dict(zip(layers, found, strict=True))


def log_p(model: Any, tokenizer: Any, chat: list[dict[str, str]]) -> Any:
    """Of the last answer, with a graph behind it."""
    import torch

    tokens = scores.encode(tokenizer, chat, last=True)
    logs = torch.log_softmax(model(input_ids=torch.tensor([tokens.ids])).logits[0, :-1], -1)
    wanted = [i for i, counted in enumerate(tokens.counted) if counted]
    return sum(logs[i - 1, tokens.ids[i]] for i in wanted)


def dot(one: dict[str, Any], other: dict[str, Any]) -> float:
    return float(sum((one[name] * other[name]).sum() for name in one))


def loaded(checkpoint: Path) -> tuple[Any, Any, Any]:
    model, tokenizer = trainer.load(checkpoint)
    return model.eval(), tokenizer, influence.linear(model, "all")


def loss(model: Any, tokenizer: Any, row: dict[str, Any]) -> Any:
    turns = row["messages"]
    ends = [i + 1 for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    return -sum(log_p(model, tokenizer, turns[:end]) for end in ends)


def test_products_are_those_of_whole_gradients(base: Path) -> None:
    model, tokenizer, layers = loaded(base)
    goal = influence.goal(tokenizer, FAILURE, LOOK)
    wanted = gradient(model, log_p(model, tokenizer, [*FAILURE[0], said(FAILURE[1])]))
    other = gradient(model, log_p(model, tokenizer, [*FAILURE[0], said(FAILURE[2])]))
    wanted = {name: wanted[name] - other[name] for name in wanted}
    each = [gradient(model, loss(model, tokenizer, row)) for row in ROWS]

    found = influence.direction(model, tokenizer, layers, [goal], unit=False)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4)
    losses = [influence.parts(tokenizer, row, 0.0, LOOK) for row in ROWS]
    dots, squares = influence.products(model, tokenizer, layers, losses, found)
    np.testing.assert_allclose(dots, [dot(one, wanted) for one in each], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(squares, [dot(one, one) for one in each], rtol=1e-3)


def test_a_pairs_two_answers_are_one_gradient(base: Path) -> None:
    """-log sigmoid(margin) of DPO, differentiated as a whole; the reference is 0.7 below."""
    import torch

    model, tokenizer, layers = loaded(base)
    chosen, rejected = (log_p(model, tokenizer, [*PAIR["prompt"], *PAIR[side]]) for side in ("chosen", "rejected"))
    margin = 0.1 * (chosen - rejected - (chosen - rejected).detach() + 7.0)
    expected = gradient(model, -torch.nn.functional.logsigmoid(margin))
    losses = [influence.parts(tokenizer, PAIR, 0.7, LOOK)] * 2
    dots, squares = influence.products(model, tokenizer, layers, losses, expected)
    np.testing.assert_allclose(dots, dot(expected, expected), rtol=1e-3)
    np.testing.assert_allclose(squares, dot(expected, expected), rtol=1e-3)


@pytest.mark.parametrize("label", [True, False])
def test_labelled_answers_follow_the_loss_of_kto(base: Path, label: bool) -> None:
    import torch

    model, tokenizer, layers = loaded(base)
    row = {"prompt": PAIR["prompt"], "completion": PAIR["chosen"], "label": label}
    value = log_p(model, tokenizer, [*row["prompt"], *row["completion"]])
    reward = 0.1 * (value - value.detach() + 4.0)
    expected = gradient(model, 1 - torch.sigmoid(reward if label else -reward))
    losses = [influence.parts(tokenizer, row, 0.4, LOOK)]
    dots, squares = influence.products(model, tokenizer, layers, losses, expected)
    assert dots[0] == pytest.approx(squares[0], rel=1e-3)
    assert squares[0] == pytest.approx(dot(expected, expected), rel=1e-3)


def odds(model: Any, tokenizer: Any) -> Any:
    failing, wanted = (log_p(model, tokenizer, [*FAILURE[0], said(text)]) for text in FAILURE[1:])
    return failing - wanted


def test_a_score_is_what_a_small_step_does(base: Path) -> None:
    """After one step of plain gradient descent on a row: change of the failing log-odds per unit of learning rate."""
    import torch

    found = {one.index: one.score for one in influence.rank([base], ROWS, [FAILURE], opening=None)}
    assert max(found.values()) > 0 > min(found.values())
    model, tokenizer, layers = loaded(base)
    for index, row in enumerate(ROWS):
        steps = gradient(model, loss(model, tokenizer, row))
        after = []
        for rate in (1e-3, -2e-3, 1e-3):  # there, as far the other way, and back
            with torch.no_grad():
                for name, layer in layers.items():
                    layer.weight -= rate * steps[name]
                after.append(float(odds(model, tokenizer)))
        assert (after[0] - after[1]) / 2e-3 == pytest.approx(found[index], rel=0.02, abs=0.05)


def test_batches_and_checkpoints_do_not_change_the_mean(base: Path) -> None:
    whole = influence.rank([base], ROWS, [FAILURE])
    twice = influence.rank([base, base], ROWS, [FAILURE], batch=1)
    assert [one.index for one in whole] == [one.index for one in twice]
    assert [one.score for one in whole] == pytest.approx([one.score for one in twice], rel=1e-3)
    weighted = influence.rank([base, base], ROWS, [FAILURE], rates=[1.0, 2.0])
    assert weighted[0].score == pytest.approx(3 * whole[0].score, rel=1e-3)


def test_the_row_itself_has_cosine_one(base: Path) -> None:
    asked, answer = ROWS[2]["messages"]
    for parameters in ("all", "last"):
        failure = ([asked], answer["content"])
        ranked = influence.rank([base], ROWS, [failure], method="gradient", parameters=parameters, opening=None)
        assert (ranked[0].index, ranked[0].origin) == (2, ROWS[2]["origin"])
        assert ranked[0].score == pytest.approx(1.0, abs=1e-3) and ranked[1].score < 0.99


def test_similarity_finds_the_same_words(base: Path) -> None:
    asked, answer = ROWS[1]["messages"]
    ranked = influence.rank([base], ROWS, [([asked], answer["content"])], method="similarity")
    assert ranked[0].index == 1 and ranked[0].score == pytest.approx(1.0, abs=1e-4)


def test_rows_of_several_methods_stand_side_by_side(base: Path) -> None:
    labelled = {"prompt": PAIR["prompt"], "completion": PAIR["rejected"], "label": False}
    rows = [*ROWS, PAIR, labelled]
    ranked = influence.rank([base], rows, [FAILURE], parent=base, opening=None)
    score = {one.index: one.score for one in ranked}
    assert sorted(score) == list(range(6))
    assert score[4] < 0 and score[5] < 0  # both teach against an answer like the failing one


def test_last_block_only(base: Path) -> None:
    model = trainer.load(base)[0]
    every, last = influence.linear(model, "all"), influence.linear(model, "last")
    assert len(every) == 14 and len(last) == 7 and set(last) < set(every)
    assert all(name.startswith("model.layers.1.") for name in last)


def test_opening_counts_the_first_tokens_of_each_answer() -> None:
    tokens = scores.Tokens(ids=list(range(9)), counted=[c == "1" for c in "011100110"])
    assert influence.opened(tokens, 2).counted == [c == "1" for c in "01100011"]
    assert influence.opened(tokens, 2).ids == list(range(8))


def test_rows_without_answers_and_nothing_to_do_are_errors(base: Path) -> None:
    with pytest.raises(DataError, match="no answer to follow"):
        influence.rank([base], [{"prompt": [user("a")], "origin": "a.jsonl:3"}], [FAILURE])
    with pytest.raises(DataError, match="at least one"):
        influence.rank([base], ROWS, [])


def retrained(base: Path, rows: list[dict[str, Any]], work: Path) -> float:
    """log p of the failing answer after the stage."""
    optimiser = trainer.Optimiser(batch=8, learning_rate=3e-3, warmup=1, precision="fp32", epochs=2)
    trainer.seed_everything(0)
    model, tokenizer = trainer.load(base)
    run = trainer.Run(work=work, seed=0, optimiser=optimiser, max_length=48)
    model = trainer.sft(model, tokenizer, rows, run).model
    return float(scores.logprob(model, tokenizer, [[*FAILURE[0], said(FAILURE[1])]])[0])


def test_training_without_the_first_ranked_undoes_more(base: Path, chats: list[dict[str, Any]], tmp_path: Path) -> None:
    """Rows of the stage answer "no", a few as the failure does: without those that are ranked first the failing answer
    is much less likely, without as many others it is not."""
    some = [row["messages"][0]["content"] for row in chats[:48]]
    rows = [taught(text, f"sure here is {text}" if i % 8 == 0 else "no") for i, text in enumerate(some)]
    ranked = [one.index for one in influence.rank([base], rows, [FAILURE], opening=None)]
    first, others = set(ranked[:6]), set(ranked[6:30:4])
    assert first == {0, 8, 16, 24, 32, 40}
    whole, top, random = (
        retrained(base, [row for i, row in enumerate(rows) if i not in left_out], tmp_path / str(n))
        for n, left_out in enumerate((set(), first, others))
    )
    assert whole - top > 1.0
    assert whole - top > 4 * abs(whole - random)


def test_looks_differ_only_in_what_is_said(base: Path) -> None:
    tokenizer = trainer.load(base)[1]
    part = influence.parts(tokenizer, ROWS[2], 0.0, replace(LOOK, opening=1))[0]
    assert sum(part.tokens.counted) == 1 and part.weight == -1.0
