"""Settings, read once by an entry point (``playbill.configure()`` or the command line).

Sources, first wins: arguments of ``configure``, environment variables ``PLAYBILL_*``, the TOML file named by
``PLAYBILL_CONFIG`` (default ``playbill.toml`` in the working directory, if it exists), the defaults below.
An unknown name is an error in all of them.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from playbill.errors import ConfigurationError

ENV_PREFIX = "PLAYBILL_"
#: Variables of this project's own test runs; they are no settings.
TEST_PREFIX = "PLAYBILL_TEST_"
CONFIG_VARIABLE = "PLAYBILL_CONFIG"
DEFAULT_CONFIG_FILE = "playbill.toml"

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """All settings of the library, one flat group; each maps to ``PLAYBILL_<NAME>``."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    store_url: SecretStr = Field(
        default=SecretStr("sqlite:///playbill.db"),
        description="SQLAlchemy URL of the store: sqlite:///file or postgresql://user:password@host/database.",
    )
    broker_url: SecretStr | None = Field(
        default=None, description="amqp:// or amqps:// URL of RabbitMQ; none: workers claim from the store."
    )
    payload_limit_bytes: int = Field(default=262_144, gt=0, description="Largest encoded message, bytes.")
    result_limit_bytes: int = Field(default=262_144, gt=0, description="Largest encoded result, bytes.")
    flush_interval_ms: int = Field(
        default=10, ge=1, le=1000, description="How long finishes are gathered before they are committed together, ms."
    )
    progress_interval_ms: int = Field(
        default=500, ge=10, description="Shortest time between two progress writes of one job, ms."
    )
    relay_after_s: Seconds = Field(
        default=5.0, description="Age at which the scheduler publishes what its producer did not get confirmed, s."
    )
    heartbeat_s: Seconds = Field(default=2.0, description="Interval of a worker's heartbeat, s.")
    lease_s: Seconds = Field(
        default=15.0,
        description=(
            "Lease of a worker: without a heartbeat for so long its jobs are rescued; at least two heartbeats long, s."
        ),
    )
    leader_lease_s: Seconds = Field(default=10.0, description="Lease of the scheduler's leader, s.")
    drain_grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=60.0, description="How long running jobs may go on after SIGTERM before they are released, s."
    )
    cancel_grace_s: Seconds = Field(
        default=10.0, description="Time a cancelled job has to reach a checkpoint before it is interrupted, s."
    )
    time_limit_s: Seconds = Field(
        default=600.0, description="Soft time limit of an attempt where neither actor nor queue sets one, s."
    )
    time_limit_grace_s: Seconds = Field(
        default=30.0, description="Time between the soft limit (an exception) and the hard one (a new process), s."
    )
    unknown_actor_limit_s: Seconds = Field(
        default=3600.0, description="A job whose actor no worker knows fails after this time, s."
    )
    unknown_actor_retry_s: Seconds = Field(
        default=10.0, description="Time between two attempts to find a worker that knows the actor, s."
    )
    poison_limit: int = Field(
        default=3, ge=1, description="A job that kills its worker so many times while it runs alone fails."
    )
    max_jobs_per_process: int | None = Field(
        default=None, gt=0, description="A worker process is replaced after so many jobs; none: never."
    )
    max_memory_mb: int | None = Field(
        default=None, gt=0, description="A worker process is replaced above this resident size, MB; none: never."
    )
    http_host: str = Field(default="127.0.0.1", description="Address of /healthz and /metrics.")
    http_port: int | None = Field(
        default=None, ge=0, le=65535, description="Port of /healthz and /metrics; 0: any free one; none: not served."
    )
    log_format: Literal["auto", "console", "json"] = Field(
        default="auto", description="auto: console on a terminal, JSON lines elsewhere."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level logged.")

    @model_validator(mode="after")
    def _lease_outlasts_heartbeats(self) -> Self:
        """One heartbeat may be late: it must not cost the worker its jobs."""
        if self.heartbeat_s * 2 > self.lease_s:
            raise PydanticCustomError(
                "lease",
                "heartbeat_s={heartbeat} and lease_s={lease} contradict each other: a lease must hold for two "
                "heartbeats; raise lease_s to {least} or more, or lower heartbeat_s",
                {"heartbeat": self.heartbeat_s, "lease": self.lease_s, "least": self.heartbeat_s * 2},
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - signature of the library
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Order of the sources; see the module's docstring."""
        return (
            init_settings,
            env_settings,
            _file_source(settings_cls),
        )


def load(**overrides: Any) -> Settings:
    """Read the settings.

    Args:
        **overrides: Settings given in code; they win over environment and file.

    Returns:
        The settings, immutable.

    Raises:
        ConfigurationError: A name is unknown or a value is wrong; the message names each.
    """
    _refuse_unknown_environment()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigurationError(_in_words(error)) from None


def _file_source(settings_cls: type[BaseSettings]) -> PydanticBaseSettingsSource:
    path = _config_file()
    try:
        return TomlConfigSettingsSource(settings_cls, toml_file=path)
    except (OSError, ValueError) as error:  # no TOML, no UTF-8, or not to be read
        raise ConfigurationError(f"the settings file {path} cannot be read: {error}") from None


def _config_file() -> Path | None:
    named = os.environ.get(CONFIG_VARIABLE)
    if named:
        path = Path(named)
        if not path.is_file():
            raise ConfigurationError(f"{CONFIG_VARIABLE}={named}: no such file; create it or unset the variable")
        return path
    path = Path(DEFAULT_CONFIG_FILE)
    return path if path.is_file() else None


def _refuse_unknown_environment() -> None:
    known = {name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE.removeprefix(ENV_PREFIX)}
    for name in sorted(os.environ):
        if not name.startswith(ENV_PREFIX) or name.startswith(TEST_PREFIX):
            continue
        bare = name.removeprefix(ENV_PREFIX).upper()
        if bare not in known:
            near = difflib.get_close_matches(bare, known, n=1)  # without the prefix, which all names share
            remedy = f"did you mean {ENV_PREFIX}{near[0]}?" if near else "unset it; see docs/reference/settings.md"
            raise ConfigurationError(f"unknown setting {name}: {remedy}")


def _in_words(error: ValidationError) -> str:
    parts = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if not name:  # of all settings together: it names those that it is about
            parts.append(item["msg"])
        elif item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            parts.append(f"unknown setting {name}" + (f": did you mean {near[0]}?" if near else ""))
        else:
            shown = "" if name.endswith("_url") else f"={item['input']!r}"
            parts.append(f"setting {name}{shown}: {item['msg']}")
    return "; ".join(parts)
