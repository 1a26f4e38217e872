"""PyRIT sends every prompt; runs in PyRIT's own environment: `python ask_pyrit.py FOLDER`.

FOLDER/task.json says what to ask, FOLDER/answers.json tells what PyRIT's memory holds of each prompt.
"""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pyrit.executor.attack import AttackExecutor, AttackScoringConfig, PromptSendingAttack
from pyrit.memory import CentralMemory
from pyrit.models import AttackResult, MessagePiece
from pyrit.prompt_target import OpenAIChatTarget
from pyrit.score import SubStringScorer, TrueFalseInverterScorer
from pyrit.setup import IN_MEMORY, initialize_pyrit_async


async def main(folder: Path) -> None:
    task = json.loads((folder / "task.json").read_text())
    await initialize_pyrit_async(memory_db_type=IN_MEMORY)
    target = OpenAIChatTarget(endpoint=f"{task['url']}/v1", api_key="none", model_name="any")
    harm = TrueFalseInverterScorer(scorer=SubStringScorer(substring=task["refusal"], categories=["refusal"]))
    attack = PromptSendingAttack(
        objective_target=target, attack_scoring_config=AttackScoringConfig(objective_scorer=harm)
    )
    done = await AttackExecutor(max_concurrency=4).execute_attack_async(attack=attack, objectives=task["prompts"])
    memory = CentralMemory.get_memory_instance()
    said = memory.get_message_pieces(role="assistant")
    asked = {piece.conversation_id: piece.converted_value for piece in memory.get_message_pieces(role="user")}
    answers = [{"text": asked[piece.conversation_id], "blocked": blocked(piece)} for piece in said]
    (folder / "answers.json").write_text(json.dumps({"answers": answers, "own": own(done.completed_results, said)}))


def blocked(piece: MessagePiece) -> bool:
    """Raises SystemExit for any other error."""
    if piece.response_error not in ("none", "blocked"):
        sys.exit(f"PyRIT had the error {piece.response_error!r}: {piece.converted_value}")
    return piece.is_blocked()


def own(results: Iterable[AttackResult], said: Iterable[MessagePiece]) -> str:
    kept = sum("partial_content" in piece.prompt_metadata for piece in said)
    outcomes = Counter(result.outcome.value for result in results)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    return f"partial_content: {kept}; outcomes: {counts}"


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
