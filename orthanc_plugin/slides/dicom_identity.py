# SPDX-License-Identifier: AGPL-3.0-or-later
"""Whose DICOM file this is: the identifying UIDs at its beginning, read without a DICOM library.

Enough of PS3.5 for what a worker sends: explicit and implicit VR little endian, nested sequences of known and
of undefined length. For whose a file is, nothing after SeriesInstanceUID (0020,000E) is looked at.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from orthanc_plugin.errors import PluginError

Tag = tuple[int, int]
_Head = tuple[Tag, bytes, int]
"""Tag, VR where it is written, and length."""
_Read = TypeVar("_Read")

_META_START = 132
_META_GROUP = 0x0002
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 16
"""Sequences within sequences. Orthanc reads them on a small stack, and more than fifty end the server."""
_MOST_BESIDE = 20_000
"""Elements of a dataset, items of a sequence: for twice as many Orthanc takes four times as long or more, and
hours for what 64 MB can hold. The largest map of the project's worker has 16,384 frames."""
_MOST_IN_ALL = 250_000
"""Elements and items. A map of 16,384 frames has 213,000; to look through 8 million would take 16 s."""
_LEAST_BYTES = 8
"""Tag and length of an element without a value."""
_ITEM = (0xFFFE, 0xE000)
_ITEM_BYTES = struct.pack("<HH", *_ITEM)
_ITEM_END = (0xFFFE, 0xE00D)
_SEQUENCE_END = (0xFFFE, 0xE0DD)
_MARKS = frozenset({_ITEM, _ITEM_END, _SEQUENCE_END})
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS"}
    | {b"LO", b"LT", b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}
)
_FRAGMENTED = frozenset({b"OB", b"OW"})
_IMPLICIT = b"1.2.840.10008.1.2"
_JPEG_AND_ALIKE = (b"50", b"51", b"57", b"70", b"80", b"81", b"90", b"91")
_SYNTAXES = frozenset(
    {_IMPLICIT, b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.5"}
    | {b"1.2.840.10008.1.2.4." + last for last in _JPEG_AND_ALIKE}
)
"""Little endian, not deflated, and spelt like this: to Orthanc " 1.2.840.10008.1.2.2" is big endian."""

_META_LENGTH = (0x0002, 0x0000)
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
        Where one of them is missing or not valid, or the bytes make no sense.
    """
    if content[128:132] != b"DICM":
        raise UnreadableDicomError("The file has no DICOM preamble.")
    found = _read(content, _Reader.identifying_values)
    missing = [tag for tag in (_SOP_INSTANCE, _STUDY, _SERIES) if not found.get(tag)]
    if missing:
        raise UnreadableDicomError(
            "The DICOM file lacks its SOPInstanceUID, StudyInstanceUID or SeriesInstanceUID."
        )
    # Orthanc is looser, and takes " 1.2" and "1.2\\0x" for 1.2.
    if not all(_UID.fullmatch(found[tag]) for tag in (_SOP_INSTANCE, _STUDY, _SERIES)):
        raise UnreadableDicomError(
            "A UID of the DICOM file is not valid: it has at most 64 characters, digits and points."
        )
    modality = found.get(_MODALITY, "")
    if _CODE.fullmatch(modality) is None:
        raise UnreadableDicomError(
            "The Modality of the DICOM file is not valid: it is a short code such as SR."
        )
    return Identity(found[_SOP_INSTANCE], modality, found[_STUDY], found[_SERIES])


def check_structure(content: bytes) -> None:
    """Look through a whole DICOM file for what Orthanc itself could not bear to read.

    Raises
    ------
    UnreadableDicomError
        Where its sequences are nested too deep, it has too many elements, or where that cannot be told.
    """
    is_shallow = content.count(_ITEM_BYTES) <= _DEEPEST  # so few cannot be nested any deeper
    if not is_shallow or len(content) > _MOST_BESIDE * _LEAST_BYTES:
        _read(content, _Reader.look_through)


def _read(content: bytes, how: Callable[[_Reader], _Read]) -> _Read:
    try:
        return how(_Reader(content))
    except (struct.error, UnicodeDecodeError) as error:
        raise UnreadableDicomError(f"The DICOM file is cut off or damaged: {error}.") from error


class _Reader:
    """Goes through the bytes as Orthanc does, and refuses what that might read otherwise.

    Where a tag comes twice, Orthanc takes the first.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = _META_START
        self._explicit = True
        self._seen = 0

    def identifying_values(self) -> dict[Tag, str]:
        found: dict[Tag, str] = {}
        for head in self._dataset():
            tag, _, length = head
            if tag > _SERIES:
                break
            if tag in {_SOP_INSTANCE, _MODALITY, _STUDY, _SERIES} and length != _UNDEFINED:
                found.setdefault(tag, _text(self._take(length)))
            else:
                self._pass_over(head, 0)
        return found

    def look_through(self) -> None:
        for head in self._dataset():
            self._pass_over(head, 0)

    def _dataset(self) -> Iterator[_Head]:
        """Yield the head of each element; whoever gets it passes its value before the next."""
        syntax = self._meta_syntax()
        if syntax not in _SYNTAXES:
            raise UnreadableDicomError(
                "Send DICOM results in implicit or explicit VR little endian, or with frames in JPEG, "
                "JPEG-LS, JPEG 2000 or RLE."
            )
        self._explicit = syntax != _IMPLICIT
        yield from _few(self._until_end(len(self._content)))

    def _meta_syntax(self) -> bytes:
        """Return the transfer syntax; Orthanc takes for meta information as much as that says it has."""
        found: dict[Tag, bytes] = {}
        end = None
        while struct.unpack_from("<H", self._content, self._at)[0] == _META_GROUP:
            tag, _, length = self._header()
            if tag in found:
                raise UnreadableDicomError("The meta information of the DICOM file says something twice.")
            found[tag] = self._take(length)
            if tag == _META_LENGTH:
                end = self._at + int.from_bytes(found[tag], "little")
        if end not in {None, self._at}:
            raise UnreadableDicomError("The meta information of the DICOM file is not as long as it says.")
        return found.get(_SYNTAX, b"").rstrip(b"\0")

    def _take(self, length: int) -> bytes:
        start, self._at = self._at, self._at + length
        if self._at > len(self._content):
            raise UnreadableDicomError("The DICOM file is cut off.")
        return self._content[start : self._at]

    def _header(self) -> _Head:
        self._seen += 1
        if self._seen > _MOST_IN_ALL:
            raise UnreadableDicomError(f"The DICOM file has more than {_MOST_IN_ALL:,} elements.")
        group, element = struct.unpack_from("<HH", self._content, self._at)
        if not self._explicit or (group, element) in _MARKS:
            (length,) = struct.unpack_from("<I", self._content, self._at + 4)
            self._at += 8
            return (group, element), b"", length
        representation = self._content[self._at + 4 : self._at + 6]
        if representation in _LONG:
            (length,) = struct.unpack_from("<I", self._content, self._at + 8)
            self._at += 12
        elif representation in _SHORT:
            (length,) = struct.unpack_from("<H", self._content, self._at + 6)
            self._at += 8
        else:
            raise UnreadableDicomError(f"The DICOM file has a value of an unknown kind, {representation!r}.")
        return (group, element), representation, length

    def _pass_over(self, head: _Head, depth: int) -> None:
        """Pass over a value, through its items where it has any."""
        tag, representation, length = head
        if tag in _MARKS:
            raise UnreadableDicomError("The DICOM file begins or ends an item where there is none.")
        if length != _UNDEFINED and not self._holds_items(representation):
            self._take(length)
            return
        if depth > _DEEPEST:
            raise UnreadableDicomError("The DICOM file nests its sequences too deep.")
        explicit = self._explicit
        # PS3.5 section 6.2.2, note 4: what is of type UN is implicit inside
        self._explicit = explicit and representation != b"UN"
        for mark, _, inner in _few(self._until(_SEQUENCE_END, length)):
            if mark != _ITEM:
                raise UnreadableDicomError("The DICOM file has a sequence of something else than items.")
            if representation in _FRAGMENTED:
                self._take(inner)
                continue
            for element in _few(self._until(_ITEM_END, inner)):
                self._pass_over(element, depth + 1)
        self._explicit = explicit

    def _holds_items(self, representation: bytes) -> bool:
        if self._explicit:
            return representation == b"SQ"
        return self._content.startswith(_ITEM_BYTES, self._at)

    def _until(self, mark: Tag, length: int) -> Iterator[_Head]:
        """Yield the heads of what lies within a length, or before a mark where that is undefined."""
        if length == _UNDEFINED:
            while (head := self._header())[0] != mark:
                yield head
            return
        end = self._at + length
        yield from self._until_end(end)
        if self._at > end:
            raise UnreadableDicomError("A value of the DICOM file is longer than the sequence around it.")

    def _until_end(self, end: int) -> Iterator[_Head]:
        while self._at < end:
            yield self._header()


def _few(heads: Iterator[_Head]) -> Iterator[_Head]:
    for count, head in enumerate(heads, start=1):
        if count > _MOST_BESIDE:
            raise UnreadableDicomError(
                f"The DICOM file has more than {_MOST_BESIDE:,} elements or items beside each other."
            )
        yield head


def _text(value: bytes) -> str:
    return value.decode("ascii").rstrip("\0 ")
