# SPDX-License-Identifier: Apache-2.0
"""Reading the settings: the environment first, then a ``.env`` file; every complaint is made at once."""

from __future__ import annotations

import difflib
import platform
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from .errors import SettingsError
from .result_kinds import ALL_KINDS, ResultKind, parse_kinds
from .settings import CheckpointSettings, Credentials, LogFormat, Settings, Shutdown

_RENAMED = {"DJANGO_API_URL": "PATHOLOGY_API_URL"}
_RETIRED = {
    "USE_LOCAL_INFERENCE": "it moved into Orthanc: set Pathology.Enabled in orthanc.json",
    "DJANGO_USER": "use ORTHANC_USER",
    "DJANGO_PASSWORD": "use ORTHANC_PASSWORD",
}
_PASSED_ON = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "CONVERTER_PYTHON",
)
"""Read from the environment by requests and by ``ingest``; a ``.env`` file may hold them too."""

_CACHE = Path.home() / ".cache" / "orthanc-pathology"
DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
PRECISIONS = ("float32", "bfloat16", "float16")
"""Those of `clam_core.encoders.Precision`, without what that imports: most commands need no PyTorch."""
WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
WORKER_ID_FORM = "1 to 64 letters, digits, dots, dashes or underscores"


def load_settings(environ: Mapping[str, str], env_file: Path | None = None) -> Settings:
    """Read the settings.

    Parameters
    ----------
    environ
        The process' environment; it wins over the file.
    env_file
        A file of ``NAME=value`` lines, or None.

    Raises
    ------
    SettingsError
        Naming every setting that is unknown or has a bad value.
    """
    from_file = parse_env_file(env_file) if env_file is not None else {}
    reader = _Reader({**from_file, **environ})
    settings = _read(reader, {name: from_file[name] for name in _PASSED_ON if name in from_file})
    problems = [*_unknown_names(reader.names, from_file, environ), *reader.problems]
    if problems:
        raise SettingsError(" ".join(problems))
    return settings


def setting_names() -> frozenset[str]:
    """Return the names of all settings."""
    reader = _Reader({})
    _read(reader, {})
    return frozenset(reader.names)


def _unknown_names(
    known: Collection[str], from_file: Mapping[str, str], environ: Mapping[str, str]
) -> Iterator[str]:
    """Complain about names nobody reads: all in the file, only misspelt addresses in the environment.

    The environment may be shared with Orthanc, whose own variables begin alike.
    """
    known = {*known, *_RENAMED, *_RETIRED, *_PASSED_ON}
    ours = [name for name in environ if name.startswith("PATHOLOGY_API")]
    for name in sorted({*from_file, *ours} - known):
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]}?" if close else " worker/env.example lists all names."
        yield f"{name} is no setting of the worker.{hint}"


def env_file_of(chosen: Path | None) -> Path | None:
    """Return the file of settings: the one that was chosen, else ``.env`` where it is there."""
    if chosen is not None:
        return chosen
    usual = Path(".env")
    return usual if usual.is_file() else None


def parse_env_file(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines; ``#`` begins a comment line, quotes around a value are taken off.

    Raises
    ------
    SettingsError
        If the file cannot be read or a line is no assignment (the line's number is named, never its text).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise SettingsError(f"There is no file {path}: correct --env-file.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as text: check the path and its rights.") from error
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip().removeprefix("export ")
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name.strip()):
            raise SettingsError(f"Line {number} of {path} is not NAME=value.")
        values[name.strip()] = _unquoted(value.strip())
    return values


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


class _Reader:
    """Takes values out of a mapping and gathers every complaint, so that one run names them all.

    `names` are those that were asked for.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)
        self.names: set[str] = set()
        self.problems: list[str] = []
        self.warnings = [
            f"{name} is not used any more: {_RETIRED[name]}."
            for name in sorted(_RETIRED.keys() & values.keys())
        ]
        for old, new in _RENAMED.items():
            if old in self._values:
                self._values.setdefault(new, self._values[old])

    def text(self, name: str) -> str | None:
        """Return a value, or None where it is absent or empty."""
        self.names.add(name)
        return self._values.get(name) or None

    def path(self, name: str) -> Path | None:
        """Return a value as a path."""
        value = self.text(name)
        return Path(value).expanduser() if value else None

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return a number within bounds."""
        value = self.text(name)
        if value is None:
            return default
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            point = f", with a decimal point: {value.replace(',', '.')}" if "," in value else ""
            self.problems.append(f"{name}={value} must be a number from {low:g} to {high:g}{point}.")
            return default
        return number

    def one_of(self, name: str, default: str, allowed: tuple[str, ...]) -> str:
        """Return one of the allowed words, in their own case."""
        value = self.text(name) or default
        for word in allowed:
            if value.lower() == word.lower():
                return word
        self.problems.append(f"{name}={value} must be one of {', '.join(allowed)}.")
        return default

    def matching(self, name: str, default: str, pattern: re.Pattern[str], what: str) -> str:
        """Return a value of the given form."""
        value = self.text(name) or default
        if pattern.fullmatch(value) is None:
            self.problems.append(f"{name}={value} must be {what}.")
        return value

    def url(self, name: str, default: str) -> str:
        """Return an http(s) address without a trailing slash and without credentials in it."""
        value = (self.text(name) or default).rstrip("/")
        if self.text(name) is None:
            return value  # made from another setting, which is complained of by its own name
        parts = urlsplit(value)
        if parts.username or parts.password:
            user = name.replace("_URL", "_USER") if name == "ORTHANC_URL" else "ORTHANC_USER"
            self.problems.append(f"{name} must not hold a user or password: set {user} and its password.")
        elif parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            self.problems.append(f"{name}={value} must be an address such as https://orthanc.example.org.")
        return value

    def kinds(self, name: str) -> frozenset[ResultKind]:
        """Return which DICOM results are wanted."""
        try:
            return parse_kinds(self.text(name) or "")
        except SettingsError as error:
            self.problems.append(str(error))
            return ALL_KINDS

    def credentials(self, prefix: str) -> Credentials | None:
        """Return a user with the password from ``*_PASSWORD`` or the file named by ``*_PASSWORD_FILE``."""
        user, password = self.text(f"{prefix}_USER"), self.text(f"{prefix}_PASSWORD")
        file = self.path(f"{prefix}_PASSWORD_FILE")
        if password is None and file is not None:
            try:
                password = file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                self.problems.append(f"{prefix}_PASSWORD_FILE={file} cannot be read: check path and rights.")
                return None
        if user is None and password is None:
            return None
        if user is None or password is None:
            missing = f"{prefix}_USER" if user is None else f"{prefix}_PASSWORD"
            self.problems.append(f"{missing} is missing: user and password go together.")
            return None
        return Credentials(user, password, prefix)


def _read(reader: _Reader, passed_on: Mapping[str, str]) -> Settings:
    orthanc_url = reader.url("ORTHANC_URL", "http://localhost:8042")
    return Settings(
        orthanc_url=orthanc_url,
        api_url=reader.url("PATHOLOGY_API_URL", f"{orthanc_url}/pathology"),
        dicomweb_url=reader.url("DICOMWEB_URL", f"{orthanc_url}/dicom-web"),
        worker=reader.credentials("ORTHANC"),
        person=reader.credentials("SUBMIT"),
        worker_id=reader.matching("WORKER_ID", _host_name(), WORKER_ID, WORKER_ID_FORM),
        model_path=reader.text("MODEL_PATH"),
        models_dir=reader.path("MODELS_DIR"),
        default_model=reader.text("DEFAULT_MODEL"),
        checkpoint=_checkpoint(reader),
        encoder_weights=reader.path("ENCODER_WEIGHTS"),
        device=reader.matching("DEVICE", "auto", DEVICE, "auto, cpu, cuda or cuda:N"),
        precision=reader.one_of("PRECISION", PRECISIONS[0], PRECISIONS),
        dicom_results=reader.kinds("DICOM_RESULTS"),
        svs_storage_dir=reader.path("SVS_STORAGE_DIR"),
        poll_interval_s=reader.number("POLL_INTERVAL", 5, 1, 3600),
        long_poll_s=reader.number("LONG_POLL", 25, 0, 55),
        connect_timeout_s=reader.number("CONNECT_TIMEOUT", 5, 0.1, 120),
        read_timeout_s=reader.number("READ_TIMEOUT", 60, 1, 3600),
        shutdown=Shutdown(reader.one_of("SHUTDOWN", "finish", tuple(mode.value for mode in Shutdown))),
        spool_dir=reader.path("SPOOL_DIR") or _CACHE / "spool",
        spool_max_bytes=int(reader.number("SPOOL_MAX_MB", 2048, 1, 1_048_576) * 1024 * 1024),
        spool_max_age_s=reader.number("SPOOL_MAX_HOURS", 72, 0.01, 8760) * 3600,
        feature_cache_dir=reader.path("FEATURE_CACHE_DIR") or _CACHE / "features",
        feature_cache_max_bytes=int(
            reader.number("FEATURE_CACHE_MAX_MB", 10_240, 0, 67_108_864) * 1024 * 1024
        ),
        feature_cache_max_age_s=reader.number("FEATURE_CACHE_MAX_DAYS", 30, 0.01, 3650) * 86_400,
        log_format=LogFormat(reader.one_of("LOG_FORMAT", "text", tuple(form.value for form in LogFormat))),
        log_level=reader.one_of("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        passed_on=dict(passed_on),
        warnings=tuple(reader.warnings),
    )


def _checkpoint(reader: _Reader) -> CheckpointSettings | None:
    encoder = reader.text("MODEL_ENCODER")
    patch_px = int(reader.number("MODEL_PATCH_PX", 256, 16, 4096))
    mpp = reader.number("MODEL_MPP", 0.5, 0.05, 20)
    classes = tuple(name.strip() for name in (reader.text("MODEL_CLASSES") or "").split(",") if name.strip())
    tissue_preset = reader.text("MODEL_TISSUE_PRESET") or "default"
    if encoder is None:
        return None
    return CheckpointSettings(encoder, patch_px, mpp, classes, tissue_preset)


def _host_name() -> str:
    """Return this machine's name in the form of a worker's id."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", platform.node()).strip("._-")[:60] or "worker"
