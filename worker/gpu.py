# SPDX-License-Identifier: Apache-2.0
"""The memory of the GPU, as telemetry counts it and the doctor looks at it."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def gpu_memory() -> Mapping[str, float]:
    """Return the memory that this process holds on its GPU, and how much that has; nothing without one."""
    held = {number: torch.cuda.memory_reserved(number) for number in range(torch.cuda.device_count())}
    used = [number for number, size in held.items() if size > 0]
    if not used:
        return {}
    return {
        "gpu_memory_bytes": sum(held.values()),
        "gpu_memory_total_bytes": sum(torch.cuda.get_device_properties(n).total_memory for n in used),
    }


def free_gpu_memory(device: str) -> tuple[int, int] | None:
    """Return free and total bytes of the GPU that a text such as ``cuda:0 NVIDIA H200`` begins with."""
    name = device.split(" ", 1)[0]
    return torch.cuda.mem_get_info(name) if name.startswith("cuda") else None
