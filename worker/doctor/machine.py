# SPDX-License-Identifier: Apache-2.0
"""The doctor's look at this machine: rights, disk, memory of the GPU."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from worker.settings import Settings

from .findings import Finding, Verdict

_MIN_FREE_BYTES = 2 * 1024**3
_MIN_GPU_BYTES = 4 * 1024**3
"""Encoders of people's choice (ViT-L to ViT-g) want 2 to 5 GB with a batch of 32."""


def settings_file(path: Path | None, settings: Settings) -> Finding:
    """See that there are settings, and that nobody else on this machine may read the password in them."""
    if path is None and settings.worker is None and settings.person is None:
        return Finding(
            "settings file",
            Verdict.WARNING,
            f"There is no .env in {Path.cwd()}, and the environment names no user: start where your .env "
            "lies, name it with --env-file, or make one from worker/env.example.",
        )
    if path is None:
        return Finding("settings file", Verdict.SKIPPED, "The settings come from the environment.")
    if sys.platform == "win32":
        return Finding("settings file", Verdict.OK, f"The settings come from {path}.")
    others = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if others:
        return Finding(
            "settings file",
            Verdict.WARNING,
            f"Others on this machine may read {path} and the passwords in it: chmod 600 {path}, or keep them "
            "in files of their own (ORTHANC_PASSWORD_FILE).",
        )
    return Finding("settings file", Verdict.OK, f"Only its owner may read {path}.")


def spool(settings: Settings) -> Finding:
    """See that results can wait on disk, and that nobody else may read them there."""
    folder = existing(settings.spool_dir)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "spool",
            Verdict.FAILED,
            f"{folder} cannot be written by this user: correct its rights, or set SPOOL_DIR elsewhere.",
        )
    if folder == settings.spool_dir and sys.platform != "win32" and _is_open_to_others(folder):
        return Finding(
            "spool", Verdict.WARNING, f"Everybody on this machine may look into {folder}: chmod 700 {folder}."
        )
    return Finding("spool", Verdict.OK, f"Results can wait in {settings.spool_dir}.")


def _is_open_to_others(folder: Path) -> bool:
    """Whether everybody has a right to a folder and a way to it: a closed one above it shuts them out."""
    path = folder.resolve()
    reached = all(above.stat().st_mode & stat.S_IXOTH for above in path.parents)
    return reached and bool(path.stat().st_mode & stat.S_IRWXO)


def feature_cache(settings: Settings) -> Finding:
    """See that features can be kept: without them each further model reads every slide anew."""
    if settings.feature_cache_max_bytes == 0:
        return Finding("feature cache", Verdict.SKIPPED, "FEATURE_CACHE_MAX_MB is 0: features are not kept.")
    folder = existing(settings.feature_cache_dir)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "feature cache",
            Verdict.WARNING,
            f"{folder} cannot be written by this user, so that no features are kept: correct its rights, or "
            "set FEATURE_CACHE_DIR elsewhere.",
        )
    return Finding("feature cache", Verdict.OK, f"Features are kept in {settings.feature_cache_dir}.")


def disk(settings: Settings) -> Finding:
    """See that there is room where results, features and temporary files lie."""
    places = {"SPOOL_DIR": settings.spool_dir, "TMPDIR": Path(tempfile.gettempdir())}
    if settings.feature_cache_max_bytes:
        places["FEATURE_CACHE_DIR"] = settings.feature_cache_dir
    free = {setting: shutil.disk_usage(existing(folder)).free for setting, folder in places.items()}
    least = min(free, key=lambda setting: free[setting])
    room = f"{free[least] / 1024**3:.1f} GB are free for {places[least]}"
    if free[least] < _MIN_FREE_BYTES:
        return Finding("disk", Verdict.WARNING, f"{room}: free some, or set {least} elsewhere.")
    return Finding("disk", Verdict.OK, f"{room}, and no less for the other folders.")


def gpu_memory(free: int, total: int) -> Finding:
    """Judge the memory of the GPU after the models were loaded."""
    what = f"{free / 1024**3:.1f} of {total / 1024**3:.1f} GB are free on the GPU"
    if free < _MIN_GPU_BYTES:
        return Finding(
            "GPU memory",
            Verdict.WARNING,
            f"{what}: batches will be small and slow. Close what else uses it (nvidia-smi), or offer "
            "fewer models.",
        )
    return Finding("GPU memory", Verdict.OK, f"{what}.")


def existing(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def ca_file(environ: Mapping[str, str]) -> Finding:
    """See that the file of certificates that is named is there: else every connection fails."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        path = environ.get(name)
        if path and not Path(path).exists():
            return Finding(
                "private CA", Verdict.FAILED, f"{name}={path} is not there: correct it, or leave it out."
            )
        if path:
            return Finding("private CA", Verdict.OK, f"Certificates are checked against {path}.")
    return Finding("private CA", Verdict.SKIPPED, "REQUESTS_CA_BUNDLE is not set; the usual CAs are trusted.")
