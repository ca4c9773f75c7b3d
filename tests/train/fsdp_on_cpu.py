"""`python -m train` whose processes really shard, with gloo on a CPU: accelerate does so on GPUs only, torch anywhere.

Only accelerate's question "is it a GPU?" is answered otherwise; FSDP itself, its collectives and our code are the real
ones.
"""

from __future__ import annotations

import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from train.__main__ import main

_init = PartialState.__init__


def _as_on_gpus(self, *arguments, **options) -> None:
    _init(self, *arguments, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    PartialState.__init__ = _as_on_gpus
    sys.exit(main())
