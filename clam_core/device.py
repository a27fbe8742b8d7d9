# SPDX-License-Identifier: Apache-2.0
"""Which device computes."""

from __future__ import annotations

import torch

from clam_core.errors import ParameterError


def select_device(name: str = "auto") -> torch.device:
    """Return the device a name stands for.

    Parameters
    ----------
    name
        ``auto`` (a GPU where there is one, else the CPU), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises
    ------
    ParameterError
        If the name is none of these, or there is no such GPU.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in {"cpu", "cuda"} or (index and not index.isdigit()) or (kind == "cpu" and index):
        raise ParameterError(f"{name!r} is no device; use auto, cpu, cuda or cuda:1.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ParameterError(
            f"{name} was asked for, and PyTorch sees no GPU; use the device cpu or auto, or check the driver "
            "with nvidia-smi and that PyTorch was built with CUDA."
        )
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise ParameterError(
            f"{name} was asked for, and there are {torch.cuda.device_count()} GPUs, counted from cuda:0."
        )
    return torch.device("cuda:0" if name == "cuda" else name)


def describe_device(device: torch.device) -> str:
    """Return the device's name for a result, such as ``cuda:0 NVIDIA H200``."""
    if device.type != "cuda":
        return device.type
    return f"{device} {torch.cuda.get_device_name(device)}"
