# SPDX-License-Identifier: Apache-2.0
"""Which workers run side by side on one machine: one for each device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from worker.errors import SettingsError
from worker.settings_reading import DEVICE, WORKER_ID, WORKER_ID_FORM


@dataclass(frozen=True)
class Post:
    """A device and the worker that computes on it.

    Attributes
    ----------
    device
        As in DEVICE.
    worker_id
        Its own name, which also names its part of the spool.
    threads
        Threads for the CPU's part of the work, or None for all.
    """

    device: str
    worker_id: str
    threads: int | None = None


def posts(devices: str, worker_id: str, count_gpus: Callable[[], int], cores: int) -> tuple[Post, ...]:
    """Return a post for each device of a list.

    Parameters
    ----------
    devices
        ``all`` (every GPU), or devices separated by commas; one that is named twice gets two processes.
    worker_id
        What the names of the workers begin with.
    count_gpus
        Counts the GPUs.
    cores
        Cores of this machine; processes on the CPU share them.

    Raises
    ------
    SettingsError
        If a name is no device's, or a worker's name gets too long.
    """
    names = _device_names(devices, count_gpus)
    total, seen = Counter(names), Counter[str]()
    on_cpu = total["cpu"]
    found = []
    for name in names:
        seen[name] += 1
        suffix = name.replace(":", "") + (f"-{seen[name]}" if total[name] > 1 else "")
        post = Post(
            name, f"{worker_id}-{suffix}", max(1, cores // on_cpu) if name == "cpu" and on_cpu > 1 else None
        )
        if WORKER_ID.fullmatch(post.worker_id) is None:
            raise SettingsError(f"WORKER_ID={post.worker_id} must be {WORKER_ID_FORM}: shorten WORKER_ID.")
        found.append(post)
    return tuple(found)


def _device_names(devices: str, count_gpus: Callable[[], int]) -> list[str]:
    if devices == "all":
        count = count_gpus()
        if count == 0:
            raise SettingsError(
                "--devices all finds no GPU: check the driver with nvidia-smi and that PyTorch was built "
                "with CUDA, or name the devices (--devices cpu)."
            )
        return [f"cuda:{number}" for number in range(count)]
    names = [name.strip() for name in devices.split(",")]
    for name in names:
        if name == "auto" or DEVICE.fullmatch(name) is None:
            raise SettingsError(
                f"--devices {devices}: {name!r} is no device; use all, or a list such as cuda:0,cuda:1."
            )
    return names
