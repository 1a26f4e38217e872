"""Inspect asks every prompt; runs in Inspect's own environment: `python ask_inspect.py FOLDER`.

FOLDER/task.json says what to ask, FOLDER/answers.json tells what Inspect's log holds of each sample.
"""

import json
import sys
from pathlib import Path

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


def main(folder: Path) -> None:
    task = json.loads((folder / "task.json").read_text())
    model = get_model("openai-api/gateway/any", base_url=f"{task['url']}/v1", api_key="none")
    asked = Task(
        dataset=[Sample(input=text, target=task["refusal"]) for text in task["prompts"]],
        solver=generate(),
        scorer=includes(),
    )
    [log] = eval(asked, model=model, log_dir=str(folder / "logs"), display="none", max_connections=4)
    (folder / "answers.json").write_text(json.dumps({"answers": answers(log), "own": own(log)}))


def answers(log: EvalLog) -> list[dict[str, object]]:
    """Raises SystemExit where the evaluation did not come to its end."""
    samples = log.samples or []
    failed = [sample.error for sample in samples if sample.error]
    if log.status != "success" or failed:
        sys.exit(f"Inspect ended with {log.status!r}: {log.error or failed}")
    return [{"text": sample.input, "blocked": sample.output.stop_reason == "content_filter"} for sample in samples]


def own(log: EvalLog) -> str:
    results = log.results
    score = results.scores[0].metrics["accuracy"].value if results else "none"
    return f"refusals by `includes`: accuracy {score}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
