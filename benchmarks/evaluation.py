"""vLLM beside plain transformers on the same model and tasks, in one run: requests per second, and whether they agree.

    python benchmarks/evaluation.py [--model demo/model] [--tasks equipoise_demo] [--limit N] [--rounds 3] [--dtype ...]

Both engines run in processes of their own, in turn, `rounds` times. In each process the model is evaluated twice and
the second time counts, since vLLM compiles on its first requests; imports, loading and the first time are given apart.
A rate is requests (one per choice or answer) over the seconds of the tasks. transformers is run with several batch
sizes and the fastest is compared, so that the ratio is not one of settings. Agreement is that of the last round:
log-likelihoods per token, and every item with another choice. About 20 minutes for the demo's 593 items on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from eval.agreement import Agreement, agreement
from eval.harness import run_evaluation
from eval.request import EvaluationRequest, EvaluationResponse

ROOT = Path(__file__).parents[1]
WARM_UP, MEASURED = "warm-up", "measured"


def request(options: argparse.Namespace, engine: dict) -> EvaluationRequest:
    return EvaluationRequest.model_validate(
        {
            "models": [{"name": name, "path": options.model} for name in (WARM_UP, MEASURED)],
            "tasks": options.tasks.split(","),
            "task_folder": options.task_folder,
            "limit": options.limit,
            "engine": {"dtype": options.dtype, "max_model_len": options.max_model_len, **engine},
        }
    )


def requests_of(response: EvaluationResponse) -> int:
    """What the engine was asked: one request per choice, or per answer to write."""
    return sum(len(item.log_likelihoods or [0]) for item in response.items)


def tokens_of_choices(options: argparse.Namespace) -> dict[tuple[str, str], tuple[int, ...]]:
    """Tokens of every choice, as the tokenizer splits it on its own; the engines' split differs by one at most."""
    from transformers import AutoTokenizer

    from eval.tasks import load, resolve

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    counts = {}
    for task in load(resolve(options.tasks.split(","), options.task_folder), seed=0):
        for doc in task.task.eval_docs:
            choices = task.task.doc_to_choice(doc) if task.scores_prompts else []
            counts[task.name, str(doc.get("id"))] = tuple(
                max(1, len(tokenizer(choice, add_special_tokens=False)["input_ids"])) for choice in choices
            )
    return counts


def measure(options: argparse.Namespace, engine: dict, work: Path) -> tuple[EvaluationResponse, float, float]:
    """(answers, seconds of the tasks alone, seconds of everything else)."""
    from eval.parts import FOLDER, Part

    response = run_evaluation(request(options, engine), work)
    parts = [Part.model_validate_json(path.read_text()) for path in (work / FOLDER).glob("*.json")]
    tasks = sum(part.seconds for part in parts if part.model == MEASURED)
    total = sum(response.seconds.values()) + response.seconds_start_up
    items = tuple(item for item in response.items if item.model == MEASURED)
    return response.model_copy(update={"items": items}), tasks, total - tasks


def show(name: str, rates: list[float], others: list[float]) -> None:
    print(
        f"{name:<24} {statistics.median(rates):8.1f} requests/s (from {min(rates):.1f} to {max(rates):.1f}), "
        f"start, load and first time {statistics.median(others):.0f} s"
    )


def show_agreement(found: Agreement) -> None:
    print(f"same answer: {found.same} of {found.items}")
    if found.largest is not None:
        print(
            f"log-likelihoods apart by {found.mean:.2g} nats per token on average, {found.largest:.2g} at most "
            f"(rounding allows {found.tolerance}): {'within' if found.within_rounding else 'BEYOND'} rounding"
        )
    for one in found.disagreements:
        margin = "" if one.margin is None else f", {one.margin:.3f} nats apart"
        print(f"  {one.task} {one.item_id}: {one.first!r} and {one.second!r}{margin}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=str(ROOT / "demo" / "model"))
    parser.add_argument("--tasks", default="equipoise_demo")
    parser.add_argument("--task-folder", default=str(ROOT / "configs" / "tasks"))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--batch-sizes", default="16,64", help="of transformers; the fastest is compared")
    options = parser.parse_args()

    engines = {
        f"transformers, batch {size}": {"backend": "hf", "batch_size": size}
        for size in map(int, options.batch_sizes.split(","))
    }
    engines["vllm"] = {"backend": "vllm"}
    rates: dict[str, list[float]] = {name: [] for name in engines}
    others: dict[str, list[float]] = {name: [] for name in engines}
    last: dict[str, EvaluationResponse] = {}
    for number in range(options.rounds):
        for name, engine in engines.items():
            with tempfile.TemporaryDirectory() as work:
                last[name], tasks, other = measure(options, engine, Path(work))
            rates[name].append(requests_of(last[name]) / tasks)
            others[name].append(other)
            print(
                json.dumps(
                    {"round": number + 1, "engine": name, "tasks_s": round(tasks, 2), "other_s": round(other, 1)}
                )
            )
    for name in engines:
        show(name, rates[name], others[name])
    best = max((name for name in engines if name != "vllm"), key=lambda name: statistics.median(rates[name]))
    ratio = statistics.median(rates["vllm"]) / statistics.median(rates[best])
    print(f"vllm serves {ratio:.2f} times the requests per second of {best}")
    show_agreement(agreement(last["vllm"], last[best], tokens_of_choices(options)))


if __name__ == "__main__":
    main()
