# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose DICOM file this is: the identifying UIDs at its beginning, read without a DICOM library.

Enough of PS3.5 for what a worker sends: explicit and implicit VR little endian, nested sequences of known and
of undefined length. Nothing after SeriesInstanceUID (0020,000E) is looked at.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass

from .errors import PluginError

_META_START = 132
_META_GROUP = 0x0002
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 16
_ITEM = (0xFFFE, 0xE000)
_ITEM_END = (0xFFFE, 0xE00D)
_SEQUENCE_END = (0xFFFE, 0xE0DD)
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_IMPLICIT = "1.2.840.10008.1.2"
_NOT_LITTLE_ENDIAN = frozenset({"1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})

_SYNTAX = (0x0002, 0x0010)
_SOP_INSTANCE = (0x0008, 0x0018)
_MODALITY = (0x0008, 0x0060)
_STUDY = (0x0020, 0x000D)
_SERIES = (0x0020, 0x000E)
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)
_CODE = re.compile(r"[A-Z0-9_ ]{0,16}", re.ASCII)


class UnreadableDicomError(PluginError):
    """The bytes are no DICOM file that this reader understands."""


@dataclass(frozen=True)
class Identity:
    """The UIDs that say where a file belongs."""

    sop_instance_uid: str
    modality: str
    study_instance_uid: str
    series_instance_uid: str


def orthanc_id(*parts: str) -> str:
    """Return the id that Orthanc gives a resource: of a study, its PatientID and StudyInstanceUID make it."""
    digest = hashlib.sha1("|".join(parts).encode("utf-8"), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def read_identity(content: bytes) -> Identity:
    """Return the identifying UIDs of a DICOM file.

    Raises
    ------
    UnreadableDicomError
        Where one of them is missing or none, or the bytes make no sense.
    """
    if content[128:132] != b"DICM":
        raise UnreadableDicomError("The file has no DICOM preamble.")
    try:
        found = _Reader(content).identifying_values()
    except (struct.error, UnicodeDecodeError) as error:
        raise UnreadableDicomError(f"The DICOM file is cut off or damaged: {error}.") from error
    missing = [tag for tag in (_SOP_INSTANCE, _STUDY, _SERIES) if not found.get(tag)]
    if missing:
        raise UnreadableDicomError(
            "The DICOM file lacks its SOPInstanceUID, StudyInstanceUID or SeriesInstanceUID."
        )
    # Orthanc is looser, and takes " 1.2" and "1.2\\0x" for 1.2.
    if not all(_UID.fullmatch(found[tag]) for tag in (_SOP_INSTANCE, _STUDY, _SERIES)):
        raise UnreadableDicomError("A UID of the DICOM file is none: digits and points, at most 64 of them.")
    modality = found.get(_MODALITY, "")
    if _CODE.fullmatch(modality) is None:
        raise UnreadableDicomError("The Modality of the DICOM file is none, such as SR.")
    return Identity(found[_SOP_INSTANCE], modality, found[_STUDY], found[_SERIES])


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = _META_START
        self._explicit = True

    def identifying_values(self) -> dict[tuple[int, int], str]:
        syntax = self._meta_syntax()
        if syntax in _NOT_LITTLE_ENDIAN:
            raise UnreadableDicomError("Send DICOM results in a little endian transfer syntax, not deflated.")
        self._explicit = syntax != _IMPLICIT
        found: dict[tuple[int, int], str] = {}
        while self._at < len(self._content):
            tag, representation, length = self._header()
            if tag > _SERIES:
                break
            if length == _UNDEFINED:
                self._skip_undefined(representation, 0)
            else:
                value = self._take(length)
                if tag in {_SOP_INSTANCE, _MODALITY, _STUDY, _SERIES}:
                    found.setdefault(tag, _text(value))  # of a tag that comes twice Orthanc takes the first
        return found

    def _meta_syntax(self) -> str:
        syntax = ""
        while struct.unpack_from("<H", self._content, self._at)[0] == _META_GROUP:
            tag, _, length = self._header()
            value = self._take(length)
            if tag == _SYNTAX:
                syntax = _text(value)
        return syntax

    def _take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > len(self._content):
            raise UnreadableDicomError("The DICOM file is cut off.")
        return self._content[start : self._at]

    def _header(self) -> tuple[tuple[int, int], bytes, int]:
        group, element = struct.unpack_from("<HH", self._content, self._at)
        if not self._explicit or group == _ITEM[0]:
            (length,) = struct.unpack_from("<I", self._content, self._at + 4)
            self._at += 8
            return (group, element), b"", length
        representation = self._content[self._at + 4 : self._at + 6]
        if representation in _LONG:
            (length,) = struct.unpack_from("<I", self._content, self._at + 8)
            self._at += 12
        else:
            (length,) = struct.unpack_from("<H", self._content, self._at + 6)
            self._at += 8
        return (group, element), representation, length

    def _skip_undefined(self, representation: bytes, depth: int) -> None:
        """Pass over a sequence or item of undefined length; one of type UN is implicit inside."""
        if depth > _DEEPEST:
            raise UnreadableDicomError("The DICOM file nests its sequences too deep.")
        explicit = self._explicit
        # PS3.5 section 6.2.2, note 4
        self._explicit = explicit and representation != b"UN"
        while True:
            tag, inner, length = self._header()
            if tag in {_ITEM_END, _SEQUENCE_END}:
                break
            if length == _UNDEFINED:
                self._skip_undefined(inner, depth + 1)
            else:
                self._take(length)
        self._explicit = explicit


def _text(value: bytes) -> str:
    return value.decode("ascii").rstrip("\0 ")
