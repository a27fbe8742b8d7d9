# SPDX-License-Identifier: Apache-2.0
"""Weights of the golden encoders, which are not stored but drawn by the recipe of golden/README.md."""

import json

import numpy as np
import torch

from tests.support.shared_data import shared_path


def recipe_weights(kind: str) -> dict[str, torch.Tensor]:
    """Return the state dict of an encoder of the golden data, without the counters of its batch norms."""
    described = json.loads(shared_path("golden/encoders/encoders.json").read_text())
    random = np.random.RandomState(described["recipe_seed"])
    shapes = described["keys"][kind]
    return {
        key: torch.from_numpy(_drawn(key, tuple(shapes[key]), random))
        for key in sorted(shapes)
        if not key.endswith("num_batches_tracked")
    }


def with_counters(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with the counters of its batch norms, as files have them."""
    counters = {
        key.replace("running_var", "num_batches_tracked"): torch.tensor(0)
        for key in tensors
        if key.endswith("running_var")
    }
    return tensors | counters


def _drawn(key: str, shape: tuple[int, ...], random: np.random.RandomState) -> np.ndarray:
    if len(shape) == 4:
        values = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif len(shape) >= 2:
        values = random.standard_normal(shape) * 0.02
    elif key.endswith(("running_var", "weight", "gamma")):
        values = random.uniform(0.5, 1.5, shape)
    else:
        values = random.uniform(-0.1, 0.1, shape)
    return np.asarray(values * (0.2 if key.endswith("bn3.weight") else 1), np.float32)
