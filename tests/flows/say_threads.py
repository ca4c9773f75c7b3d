"""`accelerate launch -m tests.flows.say_threads FILE`: writes down with how many threads it computes."""

import sys
from pathlib import Path

import torch

if __name__ == "__main__":
    Path(sys.argv[1]).write_text(str(torch.get_num_threads()))
