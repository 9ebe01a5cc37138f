"""Settings: defaults, order of the sources, and the words in which wrong ones are refused."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from playbill.errors import ConfigurationError
from playbill.settings import ENV_PREFIX, Settings, load
from tools import settings_doc

UNITS = (("_ms", " ms."), ("_s", " s."), ("_bytes", " bytes."), ("_mb", " MB;"))


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def shown(settings):
    return {
        name: value.get_secret_value() if isinstance(value, SecretStr) else value
        for name, value in settings.model_dump().items()
    }


def test_defaults_are_pinned():
    assert shown(load()) == {
        "store_url": "sqlite:///playbill.db",
        "broker_url": None,
        "payload_limit_bytes": 262_144,
        "result_limit_bytes": 262_144,
        "flush_interval_ms": 10,
        "progress_interval_ms": 500,
        "relay_after_s": 5.0,
        "heartbeat_s": 2.0,
        "lease_s": 15.0,
        "leader_lease_s": 10.0,
        "drain_grace_s": 60.0,
        "cancel_grace_s": 10.0,
        "time_limit_s": 600.0,
        "time_limit_grace_s": 30.0,
        "unknown_actor_limit_s": 3600.0,
        "unknown_actor_retry_s": 10.0,
        "poison_limit": 3,
        "max_jobs_per_process": None,
        "max_memory_mb": None,
        "http_host": "127.0.0.1",
        "http_port": None,
        "log_format": "auto",
        "log_level": "info",
    }


def test_arguments_win_over_environment_over_file(monkeypatch, tmp_path):
    (tmp_path / "playbill.toml").write_text("lease_s = 1\nheartbeat_s = 1\nrelay_after_s = 1\n")
    monkeypatch.setenv("PLAYBILL_LEASE_S", "2")
    monkeypatch.setenv("PLAYBILL_HEARTBEAT_S", "2")
    settings = load(lease_s=4)
    assert (settings.lease_s, settings.heartbeat_s, settings.relay_after_s, settings.poison_limit) == (4, 2, 1, 3)


def test_the_file_may_be_named(monkeypatch, tmp_path):
    (tmp_path / "other.toml").write_text("poison_limit = 9\n")
    monkeypatch.setenv("PLAYBILL_CONFIG", str(tmp_path / "other.toml"))
    assert load().poison_limit == 9
    monkeypatch.setenv("PLAYBILL_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(ConfigurationError, match="no such file; create it or unset the variable"):
        load()


def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch):
    monkeypatch.setenv("PLAYBILL_LEASE", "2")
    with pytest.raises(ConfigurationError, match=r"unknown setting PLAYBILL_LEASE: did you mean PLAYBILL_LEASE_S\?"):
        load()


def test_an_unknown_variable_unlike_all_names_leads_to_the_reference(monkeypatch):
    monkeypatch.setenv("PLAYBILL_QQQQ", "2")
    with pytest.raises(ConfigurationError, match=r"unset it; see docs/reference/settings\.md"):
        load()
    assert settings_doc.PAGE.as_posix().endswith("docs/reference/settings.md")


@given(st.from_regex(r"[A-Z_]{0,20}", fullmatch=True))
def test_variables_of_test_runs_are_no_settings(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"PLAYBILL_TEST_{name}", "20")
        assert load() == Settings()


def test_an_unknown_argument_or_key_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"unknown setting leases: did you mean lease_s\?"):
        load(leases=3)
    (tmp_path / "playbill.toml").write_text("leas_s = 3\n")
    with pytest.raises(ConfigurationError, match=r"unknown setting leas_s: did you mean lease_s\?"):
        load()


def test_a_wrong_value_is_named_but_no_url_is_shown(monkeypatch):
    monkeypatch.setenv("PLAYBILL_LEASE_S", "-1")
    monkeypatch.setenv("PLAYBILL_LOG_LEVEL", "loud")
    with pytest.raises(ConfigurationError) as caught:
        load(store_url=["sqlite:///secret"])
    assert "setting lease_s='-1'" in str(caught.value)
    assert "setting log_level='loud'" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_lease_that_one_late_heartbeat_would_end_is_refused():
    with pytest.raises(ConfigurationError, match=r"heartbeat_s=60.* and lease_s=1.* raise lease_s to 120.* or more"):
        load(heartbeat_s=60, lease_s=1)
    assert load(heartbeat_s=2, lease_s=4).lease_s == 4


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name.endswith("_s")])
def test_seconds_are_finite(name, value):
    with pytest.raises(ConfigurationError, match=f"setting {name}="):
        load(**{name: float(value)})


def test_secrets_are_not_shown():
    assert "hunter2" not in repr(load(store_url="postgresql://me:hunter2@host/db", broker_url="amqp://me:hunter2@host"))


def test_the_reference_is_up_to_date():
    assert settings_doc.PAGE.read_text(encoding="utf-8") == settings_doc.render(), "run python tools/settings_doc.py"


def test_every_setting_says_what_it_means():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        unit = next((unit for suffix, unit in UNITS if name.endswith(suffix)), "")
        assert unit in field.description, name


@pytest.mark.parametrize("content", [b"lease_s = = 3", b'store_url = "\xff"'])
def test_a_file_that_is_no_toml_is_refused_by_name(tmp_path, content):
    (tmp_path / "playbill.toml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"playbill\.toml cannot be read"):
        load()


def test_a_file_that_may_not_be_read_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("PLAYBILL_CONFIG", "/proc/self/mem")  # a file even root gets an error from
    with pytest.raises(ConfigurationError, match="/proc/self/mem cannot be read"):
        load()
