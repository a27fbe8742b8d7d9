# SPDX-License-Identifier: Apache-2.0
"""Settings: the environment, a `.env` file, and a sentence for every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import worker
from clam_core.encoders import Precision
from worker.errors import SettingsError
from worker.settings import LogFormat, Shutdown
from worker.settings_reading import PRECISIONS, load_settings, parse_env_file, setting_names

CANARY = "secret-canary-7f3a"


def env_file(folder: Path, text: str) -> Path:
    path = folder / ".env"
    path.write_text(text, "utf-8")
    return path


def test_nothing_set_means_a_local_orthanc_and_its_plugin() -> None:
    settings = load_settings({})
    assert settings.orthanc_url == "http://localhost:8042"
    assert settings.api_url == "http://localhost:8042/pathology"
    assert settings.dicomweb_url == "http://localhost:8042/dicom-web"
    assert (settings.worker, settings.person) == (None, None)
    assert (settings.shutdown, settings.log_format) == (Shutdown.FINISH, LogFormat.TEXT)


def test_the_plugins_address_follows_orthancs() -> None:
    assert load_settings({"ORTHANC_URL": "https://o.example/"}).api_url == "https://o.example/pathology"


def test_the_older_name_of_the_address_is_still_read() -> None:
    settings = load_settings({"DJANGO_API_URL": "http://old:8000/api/pathology/"})
    assert settings.api_url == "http://old:8000/api/pathology"


def test_the_newer_name_wins_over_the_older() -> None:
    both = {"DJANGO_API_URL": "http://old/api/pathology", "PATHOLOGY_API_URL": "http://new/pathology"}
    assert load_settings(both).api_url == "http://new/pathology"


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = env_file(tmp_path, "DEVICE=cuda:1\nWORKER_ID=from-file\n")
    settings = load_settings({"WORKER_ID": "from-environment"}, path)
    assert (settings.device, settings.worker_id) == ("cuda:1", "from-environment")


def test_a_file_may_have_comments_quotes_exports_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = env_file(tmp_path, "\ufeff# comment\n\nexport ORTHANC_USER='lab'\nORTHANC_PASSWORD=\"a=b # c\"\n")
    assert parse_env_file(path) == {"ORTHANC_USER": "lab", "ORTHANC_PASSWORD": "a=b # c"}


def test_a_file_of_settings_that_is_not_there_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"There is no file .*nope\.env: correct --env-file"):
        load_settings({}, tmp_path / "nope.env")


def test_a_line_that_is_no_assignment_is_named_by_its_number_only(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Line 2 of") as raised:
        load_settings({}, env_file(tmp_path, f"DEVICE=cpu\n{CANARY}\n"))
    assert CANARY not in str(raised.value)


def test_an_unknown_name_in_the_file_is_named_with_the_likely_one(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"ORTHANC_PASWORD is no setting.*Did you mean ORTHANC_PASSWORD\?"
    ):
        load_settings({}, env_file(tmp_path, "ORTHANC_PASWORD=x\n"))


def test_a_decimal_comma_in_a_setting_is_named() -> None:
    with pytest.raises(SettingsError, match=r"MODEL_MPP=0,5 must be .*, with a decimal point: 0\.5\."):
        load_settings({"MODEL_MPP": "0,5"})


def test_unknown_names_in_the_environment_belong_to_others() -> None:
    load_settings({"PATHOLOGY_HOME": "/opt", "ORTHANC_USERNAME": "admin", "EDITOR": "vi"})


def test_a_retired_name_is_a_warning_that_says_where_it_went() -> None:
    (warning,) = load_settings({"USE_LOCAL_INFERENCE": "true"}).warnings
    assert warning.startswith("USE_LOCAL_INFERENCE is not used any more")
    assert "set Pathology.Enabled in orthanc.json" in warning


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POLL_INTERVAL", "soon"),
        ("POLL_INTERVAL", "0"),
        ("POLL_INTERVAL", "nan"),
        ("LONG_POLL", "3600"),
        ("DEVICE", "gpu"),
        ("PRECISION", "half"),
        ("SHUTDOWN", "later"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("ORTHANC_URL", "localhost:8042"),
        ("ORTHANC_URL", "ftp://example.org"),
        ("WORKER_ID", "no spaces"),
        ("SPOOL_MAX_MB", "-1"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings({name: value})


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"DEVICE=y must .* POLL_INTERVAL=x must"):
        load_settings({"POLL_INTERVAL": "x", "DEVICE": "y"})


@pytest.mark.parametrize("url", ["127.0.0.1:8777", f"http://lab:{CANARY}@example.org"])
def test_only_the_address_that_was_set_is_complained_of(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({"ORTHANC_URL": url})
    assert re.findall(r"[A-Z]+_[A-Z_]*URL", str(raised.value)) == ["ORTHANC_URL"]


def test_a_password_in_an_address_is_refused_without_repeating_it() -> None:
    with pytest.raises(SettingsError, match="must not hold a user or password") as raised:
        load_settings({"ORTHANC_URL": f"http://lab:{CANARY}@example.org"})
    assert CANARY not in str(raised.value)


@pytest.mark.parametrize("name", ["ORTHANC_USER", "ORTHANC_PASSWORD", "SUBMIT_USER", "SUBMIT_PASSWORD"])
def test_half_a_pair_of_user_and_password_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match="go together"):
        load_settings({name: "x"})


def test_a_password_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(f"{CANARY}\n")
    settings = load_settings({"ORTHANC_USER": "lab", "ORTHANC_PASSWORD_FILE": str(secret)})
    assert settings.require_worker().password == CANARY


def test_no_password_shows_in_the_settings_text() -> None:
    settings = load_settings(
        {"ORTHANC_USER": "a", "ORTHANC_PASSWORD": CANARY, "SUBMIT_USER": "b", "SUBMIT_PASSWORD": CANARY}
    )
    assert CANARY not in repr(settings)
    assert CANARY not in f"{settings.worker} {settings.person}"


def test_a_missing_user_is_asked_for_with_the_place_where_it_is_made() -> None:
    with pytest.raises(SettingsError, match=r"ORTHANC_USER.*Pathology\.Workers"):
        load_settings({}).require_worker()
    with pytest.raises(SettingsError, match=r"SUBMIT_USER.*no worker"):
        load_settings({}).require_person()


def test_the_example_file_names_every_setting_and_loads(tmp_path: Path) -> None:
    example = Path(worker.__file__).with_name("env.example").read_text("utf-8")
    load_settings({}, env_file(tmp_path, example))
    uncommented = re.sub(r"^#(?=[A-Z_]+=)", "", example, flags=re.MULTILINE)
    named = set(parse_env_file(env_file(tmp_path, uncommented)))
    assert len(setting_names()) > 30
    assert setting_names() <= named


def test_the_precisions_that_can_be_set_are_those_that_there_are() -> None:
    assert tuple(Precision) == PRECISIONS
