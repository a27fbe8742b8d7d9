# SPDX-License-Identifier: Apache-2.0
"""Silence around libraries that quote what stands in a header."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def unquoted() -> Iterator[None]:
    """Drop warnings inside the block: pydicom's quote values, patients' names among them, to standard error.

    Its loggers, and highdicom's, are kept quiet by `worker.logs.configure`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
