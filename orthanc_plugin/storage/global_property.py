# SPDX-License-Identifier: AGPL-3.0-or-later
"""One value in a global property of Orthanc's database: what must outlast the slides, and a restart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from orthanc_plugin.errors import StorageError
from orthanc_plugin.gateway import Gateway

Value = TypeVar("Value")

_DAMAGED = (ValueError, TypeError, AttributeError, KeyError, RecursionError)
"""How JSON, or what takes it apart, says that a text is not what was written."""


@dataclass(frozen=True)
class Form(Generic[Value]):
    """How a value is written.

    Attributes
    ----------
    encode
        Returns the value's JSON.
    decode
        Returns the value that parsed JSON stands for; raises one of `_DAMAGED` where it stands for none.
    empty
        The value where nothing, or nothing readable, is stored.
    loss
        The sentence that says what an unreadable value means to the site.
    """

    encode: Callable[[Value], str]
    decode: Callable[[Any], Value]
    empty: Value
    loss: str


class GlobalProperty(Generic[Value]):
    """A value that is read once, and written before it counts. The owner's lock is held around both."""

    def __init__(self, gateway: Gateway, number: int, form: Form[Value], warn: Callable[[str], None]) -> None:
        self._gateway = gateway
        self._number = number
        self._form = form
        self._warn = warn
        self._held: Value | None = None

    def get(self) -> Value:
        """Return the value; an unreadable one is reported, and empty.

        Raises
        ------
        StorageError
            Where Orthanc cannot read.
        """
        if self._held is None:
            self._held = self._decoded(self._gateway.get_global_property(self._number))
        return self._held

    def put(self, value: Value) -> None:
        """Write the value, durably, unless it is what is there.

        Raises
        ------
        StorageError
            Where Orthanc cannot read or write.
        """
        if value == self.get():
            return
        try:
            self._gateway.set_global_property(self._number, self._form.encode(value))
        except StorageError:
            self._held = None  # it may be written all the same: only Orthanc knows
            raise
        self._held = value

    def _decoded(self, text: str | None) -> Value:
        try:
            return self._form.decode(json.loads(text)) if text else self._form.empty
        except _DAMAGED as error:
            self._warn(f"Global property {self._number} is damaged ({error}). {self._form.loss}")
            return self._form.empty


def texts_of(value: Any) -> tuple[str, ...]:
    """Return a list of texts.

    Raises
    ------
    ValueError
        Where the value is no such list.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("no list of texts")
    return tuple(value)


def compact(value: Any) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))
