"""train.per_example when memory runs out: torch's allocator really fails, under a limit on the address space.

The limited work runs in a process of its own (this file as a program), so that nothing else can meet the limit.
"""

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VOCABULARY, LENGTH, COUNT = 20_000, 120, 8  # logits of one row: 9 MiB, and the loss needs several copies
MEBIBYTE = 2**20


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def main() -> None:
    """Prints what happened at three limits as JSON."""
    import random

    import torch

    from tests.reference.per_example import relative_error
    from tests.tiny import PAD, make_base
    from train.encoding import Encoded
    from train.models import attach_lora
    from train.per_example import find_taps, flat_gradients, iterate_gradients
    from train.settings import LoraSettings

    class Kept:
        def __init__(self, positions):
            self.positions, self.parts = positions, {}

        def add(self, name, block):
            self.parts[name] = block.flatten(1)

        def finish(self):
            for name, part in self.parts.items():
                blocks[name][self.positions] = part

    rng = random.Random(0)
    rows = []
    for i in range(COUNT):
        ids = [rng.randrange(2, VOCABULARY) for _ in range(LENGTH - i)]
        rows.append(Encoded(f"row{i}", "a", ids, ids))
    model = attach_lora(make_base("qwen2", VOCABULARY), LoraSettings(r=2), seed=0)
    taps = find_taps(model)
    wanted = flat_gradients(model, rows, PAD, tokens_per_batch=LENGTH, taps=taps)
    blocks = {name: torch.full_like(part, torch.nan) for name, part in wanted.items()}
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("train.per_example.batches").addHandler(handler)

    def run(free_mebibytes: int | None) -> dict:
        sizes, halvings = [], []
        for part in blocks.values():
            part.fill_(torch.nan)
        messages.clear()
        limit = resource.RLIM_INFINITY if free_mebibytes is None else address_space() + free_mebibytes * MEBIBYTE
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        outcome: dict = {}
        try:
            iterate_gradients(
                model, rows, PAD, COUNT * LENGTH, taps, Kept,
                on_batch=sizes.append, on_halving=lambda: halvings.append(1),
            )  # fmt: skip
        except MemoryError as error:
            outcome = {"error": str(error), "cause": str(error.__cause__)}
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if not outcome:
            outcome["relative_error"] = relative_error(blocks, wanted)
        return outcome | {"sizes": sizes, "halvings": len(halvings), "messages": list(messages)}

    print(json.dumps({"unlimited": run(None), "some": run(150), "little": run(8)}))


@pytest.fixture(scope="module")
def outcomes() -> dict:
    if not sys.platform.startswith("linux"):
        pytest.skip("limits on the address space are enforced on Linux")
    # one thread and one arena: no other thread's reserve of address space blurs the limit
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_one_batch_where_memory_suffices(outcomes):
    unlimited = outcomes["unlimited"]
    assert unlimited["sizes"] == [COUNT]
    assert unlimited["messages"] == []
    assert unlimited["relative_error"] < 1e-5


def test_batch_is_halved_until_it_fits_and_says_so(outcomes):
    limited = outcomes["some"]
    assert limited["halvings"] >= 1
    assert sum(limited["sizes"]) == COUNT and max(limited["sizes"]) <= COUNT // 2
    assert limited["relative_error"] < 1e-5
    assert len(limited["messages"]) == limited["halvings"]
    assert limited["messages"][0] == (
        f"out of memory at {COUNT * LENGTH} padded tokens: going on with at most {COUNT * LENGTH // 2} a batch"
    )


def test_single_row_that_does_not_fit_is_an_error(outcomes):
    little = outcomes["little"]
    assert little["halvings"] == 3  # 8, 4, 2, then one row
    assert set(little["sizes"]) <= {1}
    tokens = LENGTH - len(little["sizes"])  # the longest first, and memory that was freed before may do for some
    assert little["error"].startswith(f"out of memory with a single row of {tokens} tokens: lower max_length")
    assert "DefaultCPUAllocator: can't allocate memory" in little["cause"]


if __name__ == "__main__":
    main()
