# SPDX-License-Identifier: Apache-2.0
"""Tensors from files that others made: read without ever running what such a file may hold.

A torch checkpoint is a pickle, and a pickle can run any program when it is loaded. Everything here goes
through safetensors or ``torch.load(weights_only=True)``, and nothing falls back to less.
"""

import codecs
import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clam_core.errors import CheckpointError, UnsupportedCheckpointError

PICKLE_PROTOCOL = b"\x80"
"""First byte of every binary pickle (the opcode PROTO, PEP 307)."""

_HEAD_BYTES = 512
_MARKUP_BYTES = 16
_GIT_LFS = b"version https://git-lfs.github.com/spec/"

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Names under which training programs put the tensors inside a larger checkpoint."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 lower-case hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_tensors(path: Path, bare_as: str | None = None) -> dict[str, torch.Tensor]:
    """Read a state dict from a safetensors or torch file, onto the CPU.

    Parameters
    ----------
    path
        The file. Its kind is told by its first bytes, not by its name.
    bare_as
        Name for a tensor that comes alone; None refuses one.

    Returns
    -------
    dict of str to torch.Tensor
        The tensors by name; a dict wrapped in ``state_dict`` or the like is unwrapped.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds no tensors.
    UnsupportedCheckpointError
        If it is a pickle that wants to do more than make tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}: name the checkpoint that you want to use.")
    loaded = _load(path)
    if bare_as is not None and isinstance(loaded, torch.Tensor):
        return {bare_as: loaded}
    tensors = _unwrapped(loaded, path)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: name a checkpoint that was saved as a state dict.")
    return tensors


def _load(path: Path) -> object:
    if _is_safetensors(path):
        return _load_safetensors(path)
    if _is_torch(path):
        return _load_torch(path)
    raise CheckpointError(f"{path} is no checkpoint: {_what_it_is(path)}")


def _what_it_is(path: Path) -> str:
    """Say what a file is in a checkpoint's place, where its first bytes tell, and what to do."""
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if head.startswith(_GIT_LFS):
        return (
            "it is a pointer of Git LFS, which stands for the file; fetch the file itself with git lfs pull."
        )
    if head.lstrip()[:_MARKUP_BYTES].lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, often that of a download that wants a login; download the file again."
    if head and _is_text(head):
        return "it is a text file; name a torch or safetensors file."
    return "it is damaged, or of another kind; name a torch or safetensors file."


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        # Incrementally: the last character may be cut.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True


def _is_torch(path: Path) -> bool:
    """Tell a torch file: a zip, or before torch 1.6 a pickle that begins with its protocol."""
    with path.open("rb") as stream:
        head = stream.read(1)
    return head == PICKLE_PROTOCOL or zipfile.is_zipfile(path)


def _is_safetensors(path: Path) -> bool:
    """Tell a safetensors file by its layout: eight bytes of length, then a JSON object."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:9] == b"{" and not zipfile.is_zipfile(path)


def _load_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy or download it again.") from error


def _load_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            # An unusual protocol is no concern: what the reader does not know, it refuses.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise UnsupportedCheckpointError(
                f"{path} wants to run code when it is loaded, which is refused: save its state_dict alone "
                "with torch.save(model.state_dict(), path) or as safetensors, where it comes from."
            ) from error
        raise CheckpointError(f"{path} is no checkpoint, or a damaged one: copy it again.") from error
    except (EOFError, RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({_first_line(error)}): copy it again.") from error


def _unwrapped(loaded: object, path: Path) -> dict[str, torch.Tensor]:
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not a state dict of named tensors.")
    for wrapper in WRAPPERS:
        inner = loaded.get(wrapper)
        if isinstance(inner, Mapping):
            return _unwrapped(inner, path)
    return {str(key): value for key, value in loaded.items() if isinstance(value, torch.Tensor)}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
