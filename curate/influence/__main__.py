"""`python -m curate.influence JOB.json`, alone or under `accelerate launch`: fill the feature stores of one job.

Processes share the shards; they meet at barriers only, so their number changes nothing but the time.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from pydantic import ValidationError
from tqdm import tqdm

from curate.influence.job import Worker, run_job
from curate.influence.settings import GradientJob
from train.process import end_with_parent, say_error
from train.settings import faults

LONGEST_WAIT = timedelta(days=7)  # a process that is done waits for the slowest one


def this_worker() -> Worker:
    """This process's rank, device and barrier, from what `accelerate launch` has set; one process otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Worker(device="cuda" if torch.cuda.is_available() else "cpu")
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    return Worker(state.process_index, state.num_processes, str(state.device), state.wait_for_everyone)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: [accelerate launch] python -m curate.influence JOB.json", file=sys.stderr)
        return 2
    end_with_parent()
    try:
        job = GradientJob.model_validate_json(Path(sys.argv[1]).read_text())
    except ValidationError as error:
        say_error(faults(error), f"{sys.argv[1]}: ")
        return 2
    except (OSError, UnicodeDecodeError) as error:
        say_error(error, f"{sys.argv[1]} cannot be read: ")
        return 2
    try:
        worker = this_worker()
        rows = len(job.checkpoints) * pq.read_metadata(job.pool).num_rows
        with tqdm(total=rows, desc="gradients", unit="row", disable=worker.rank > 0, mininterval=1.0) as bar:
            run_job(job, worker, lambda count: (bar.update(count), None)[1])
    except (OSError, ValueError, MemoryError) as error:
        say_error(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
