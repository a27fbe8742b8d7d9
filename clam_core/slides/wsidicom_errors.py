# SPDX-License-Identifier: Apache-2.0
"""What wsidicom raises: its exceptions have no common root."""

import struct

from marshmallow import ValidationError
from wsidicom import errors

WSIDICOM_ERRORS: tuple[type[Exception], ...] = tuple(
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__
)

DAMAGED: tuple[type[Exception], ...] = (
    *WSIDICOM_ERRORS,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    struct.error,
)
"""What readers and decoders raise on damaged files.

Not OSError: a disk or a network that fails says nothing about the slide, and passes through as it is.
"""

UNREADABLE_HEADER: tuple[type[Exception], ...] = (*DAMAGED, TypeError, IndexError, ValidationError)
"""What wsidicom raises besides while it opens a slide, on attributes that are there and hold nothing."""
