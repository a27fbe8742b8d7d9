# SPDX-License-Identifier: Apache-2.0
"""What wsidicom raises: its exceptions have no common root."""

from wsidicom import errors

WSIDICOM_ERRORS: tuple[type[Exception], ...] = tuple(
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == errors.__name__
)
