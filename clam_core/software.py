# SPDX-License-Identifier: Apache-2.0
"""Versions of what a result went through, so that another machine can repeat it."""

import contextlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

DECODERS = (
    "imagecodecs",
    "opencv-python-headless",
    "openslide-bin",
    "openslide-python",
    "pillow",
    "simplejpeg",
    "wsidicom",
)
"""What reads, decodes and resizes pixels."""

LIBRARIES = tuple(sorted({*DECODERS, "highdicom", "numpy", "openvino", "pydicom"}))
"""Whose versions stand in a result, beside those of this package and of PyTorch."""


@cache
def versions(packages: tuple[str, ...]) -> Mapping[str, str]:
    """Return the versions of those packages that are installed, by name."""
    found = {}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
