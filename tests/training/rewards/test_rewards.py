from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter

from alignstack import policy
from alignstack.core.errors import ConfigError, DataError
from alignstack.core.verdict import Verdict
from alignstack.training import rewards
from alignstack.training.rewards import model as models
from alignstack.training.rewards.answer import Answer, Place
from alignstack.training.rewards.guard import worth

TOKENIZER = SimpleNamespace(all_special_ids=[0, 1, 2], get_added_vocab=lambda: {"<|end|>": 1, "<|user|>": 2})
PLACE = Place(file=Path("recipe.yaml"), policy=policy.load(), tokenizer=TOKENIZER)
HELP = "To bake bread at home, first mix flour, water and yeast, then bake the bread for an hour at home."
DECLINED = "I can't help with that."


def one(**keys: Any) -> Any:
    config = TypeAdapter(rewards.Config).validate_python(keys)
    (config,) = rewards.named([config], "recipe.yaml")
    return rewards.build([config], PLACE)[config.name]


def answer(
    text: str = "tea", label: str | None = None, request: str = "How do I bake bread at home?", **more: Any
) -> Answer:
    row = {"label": label} if label else {}
    return Answer(prompt=[{"role": "user", "content": request}], text=text, row=row, **more)


def test_length_charges_past_what_is_free() -> None:
    assert one(use="length", per_token=-0.5, free=2).score([answer(ids=range(n)) for n in (1, 2, 6)]) == [0, 0, -2]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (answer("tea with bread", ids=[7, 8, 1]), 1),
        (answer("tea with", ids=[7, 8], ended=False), 2 / 3),
        (answer(" ", ids=[7, 1]), 2 / 3),
        (answer("a tea " * 12, ids=[7, 8, 1]), 2 / 3),
        (answer("tea with", ids=[7, 2, 8, 1]), 2 / 3),
        (answer("tea <|user|> and", ids=[7, 8, 1]), 2 / 3),
        (answer("a tea " * 12 + "<|user|>", ids=[7, 8], ended=False), 0),
    ],
)
def test_format_takes_a_third_for_each_fault(given: Answer, value: float) -> None:
    assert one(use="format").score([given]) == [pytest.approx(value)]


def test_judge_scores_its_own_side_alone() -> None:
    answers = [answer(HELP, "harmful"), answer(DECLINED, "harmful"), answer(HELP, "benign"), answer(DECLINED, "benign")]
    assert one(use="judge", judge={"use": "compliance"}, side="harmless").score(answers) == [0, 1, None, None]
    assert one(use="judge", judge={"use": "compliance"}, side="helpful").score(answers) == [None, None, 1, 0]
    assert one(use="judge", judge={"use": "compliance"}, side="refused").score(answers) == [0, 1, 0, 1]


def test_answer_that_did_not_end_is_no_help() -> None:
    cut = [answer(HELP, "benign", ended=False), answer("", "benign")]
    assert one(use="judge", judge={"use": "compliance"}, side="helpful").score(cut) == [0, 0]


def test_guard_prefers_what_the_layer_passes() -> None:
    guard = one(use="guard", layer={"use": "classifier", "model": "embedded"})
    harmless, harmful = guard.score([answer(HELP), answer("Buy a stolen credit card and use it to steal money.")])
    assert 0 <= harmful < harmless <= 1


def test_layer_without_a_score_counts_by_its_verdict() -> None:
    keyword = one(use="guard", layer={"use": "keyword", "patterns": ["phishing"]})
    assert keyword.score([answer("a phishing mail"), answer("tea")]) == [0, 1]
    assert worth(Verdict(action="abstain")) is None


def test_plugins_with_wrong_keys_are_named_by_their_place() -> None:
    with pytest.raises(ConfigError, match=r"rewards.helpful.judge.*topic"):
        one(use="judge", judge={"use": "compliance", "topik": "shown"}, side="helpful")
    with pytest.raises(ConfigError, match=r"rewards.guard.layer.use: no layer 'clasifier'"):
        one(use="guard", layer={"use": "clasifier"})


def test_ensemble_is_combined_as_the_recipe_says() -> None:
    """Rewards 1, 2 and 6: mean 3, variance (4 + 1 + 9) / 3."""
    values = [models.combined((1.0, 2.0, 6.0), how, 0.5) for how in ("mean", "worst", "uncertainty")]
    assert values == pytest.approx([3, 1, 3 - 0.5 * 14 / 3])


def test_language_model_is_no_reward_model(helpful: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no reward model but a language model"):
        one(use="model", checkpoint=str(helpful))
    with pytest.raises(DataError, match="holds no checkpoint"):
        one(use="model", checkpoint=str(tmp_path))


def test_members_speak_in_standard_deviations(helpful: Path, tmp_path: Path) -> None:
    from alignstack.training import trainer

    for seed, folder in enumerate((tmp_path, tmp_path / "member-1")):
        scorer, tokenizer = trainer.load_scorer(helpful, seed)
        trainer.save(scorer, tokenizer, folder)
    given = [answer("tea with bread"), answer("old house")]
    plain = one(use="model", checkpoint=str(tmp_path))
    raw = [
        member.rewards([[*a.prompt, {"role": "assistant", "content": a.text}] for a in given], 8)
        for member in plain.members
    ]
    (tmp_path / "reward.jsonl").write_text('{"members": [{"mean": 1.0, "std": 2.0}, {"mean": 0.0, "std": 0.5}]}\n{}\n')
    worst = one(use="model", checkpoint=str(tmp_path), combine="worst").score(given)
    assert worst == pytest.approx([min((a - 1) / 2, b / 0.5) for a, b in zip(*raw, strict=True)], abs=1e-5)
    assert raw[0] != pytest.approx(raw[1], abs=1e-4)


def test_two_rewards_need_two_names() -> None:
    config = TypeAdapter(rewards.Config).validate_python({"use": "format"})
    with pytest.raises(ConfigError, match="two are named 'format'"):
        rewards.named([config, config], "recipe.yaml")


def test_openings_are_compared_between_benign_requests() -> None:
    alike = [answer(f"I can't help with {i}", "benign", f"request {i}") for i in range(3)]
    assert rewards.measures(alike) == {"answers/distinct": 1.0, "answers/alike": 1.0}
    mixed = [*alike[:2], answer("Take tea", "benign", "request 9")]
    assert rewards.measures(mixed)["answers/alike"] == pytest.approx(1 / 3)
    assert "answers/alike" not in rewards.measures([answer(DECLINED, "harmful", f"request {i}") for i in range(3)])
    same = [answer("a b c d", "benign", "one") for _ in range(4)]
    assert rewards.measures(same) == {"answers/distinct": 0.25}  # samples of one answer may be alike


def test_batch_is_read_as_the_trainer_gives_it() -> None:
    seen: dict[str, float] = {}
    functions = rewards.functions({"length": one(use="length", per_token=1.0), "form": one(use="format")}, end=1)
    batch: dict[str, Any] = {
        "prompts": [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]],
        "completions": [[{"role": "assistant", "content": "tea"}], [{"role": "assistant", "content": "old tea"}]],
        "completion_ids": [[7, 1], [7, 8, 9]],
        "label": ["benign", "benign"],
        "trainer_state": object(),
    }
    assert functions["length"](log_metric=seen.__setitem__, **batch) == [2, 3]
    assert functions["form"](**batch) == [1, pytest.approx(2 / 3)]
    assert seen == {"answers/distinct": 1.0, "answers/alike": 0.0}
