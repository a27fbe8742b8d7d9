# SPDX-License-Identifier: Apache-2.0
"""How long CLAM takes for the features of one large slide: 20,000 patches of 1,024 values, on the CPU.

The last line is JSON. The arithmetic is 31 GFLOP: first layer and gated attention.
"""

import json
import statistics
import time

import numpy as np
import torch

from clam_core.models import TorchAggregator
from clam_core.models.clam import Clam, ClamShape

PATCHES = 20_000
REPEATS = 7


def seconds(aggregator: TorchAggregator, features: np.ndarray) -> float:
    aggregator.predict(features)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        aggregator.predict(features)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    features = np.random.default_rng(0).standard_normal((PATCHES, 1024)).astype(np.float32)
    figures = {}
    for name, multi_branch in (("CLAM_SB", False), ("CLAM_MB", True)):
        torch.manual_seed(0)
        aggregator = TorchAggregator(Clam(ClamShape(1024, 2, multi_branch=multi_branch)))
        figures[name] = seconds(aggregator, features)
        print(f"{name:10s} {PATCHES} patches  {figures[name] * 1000:8.1f} ms")
    print(
        json.dumps({"mil_forward_20000_s": round(figures["CLAM_SB"], 4), "threads": torch.get_num_threads()})
    )


if __name__ == "__main__":
    main()
