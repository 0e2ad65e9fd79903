"""What is set from outside: the environment and `corsac.toml`. The only reader of `os.environ`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from corsac.core.configuration.file import read_config_file
from corsac.core.exceptions import StartRefused
from corsac.core.validation import translate_validation_errors

PREFIX = "CORSAC_"
FILE = "corsac.toml"


def default_data_directory() -> Path:
    """Where data lives unless it is set: the platform's folder for a user's application data."""
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "corsac"
    return Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "corsac"


class Settings(BaseSettings):
    """Settings of the server as a whole; those of services are configuration and change while it runs.

    Each is set as `CORSAC_<NAME>` or under `[server]` in `corsac.toml` of the data directory; the environment wins.

    Raises:
        StartRefused: A value is not valid, or the file cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address to listen on. Other than loopback needs `auth`.")
    port: int = Field(8484, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    data_directory: Path = Field(
        default_factory=default_data_directory,
        description="Folder of everything that is kept; one server each.",
    )
    auth: bool = Field(True, description="Whether a credential is needed. Off only on a loopback address.")
    allowed_hosts: list[str] = Field([], description="Host names, besides the loopback ones, that are answered for.")
    cors_origins: list[str] = Field([], description="Web origins that may use the API from a browser.")
    trusted_proxies: list[str] = Field(
        [], description="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "json", "pretty"] = Field("auto", description="auto: pretty on a terminal, else JSON.")
    starter: Literal["none", "speech"] = Field(
        "speech", description="Which starter models are pulled in the background at the first start."
    )
    requests_per_minute: int = Field(600, ge=1, description="Requests per minute of one peer that is not the owner.")
    max_connections: int = Field(1000, ge=1, le=100_000, description="Connections at a time.")
    drain_timeout_s: float = Field(20.0, ge=0, le=20, description="Seconds that running requests get at shutdown.")
    retention_days: float = Field(7.0, gt=0, description="Days that generated files are kept.")
    retention_gib: float = Field(5.0, gt=0, description="GiB of generated files that are kept, the newest.")

    def __init__(self, **arguments: Any) -> None:
        try:
            super().__init__(**arguments)
        except ValidationError as error:
            raise _refused(error) from None
        except SettingsError:
            raise StartRefused(
                "A variable that sets a list is not JSON.", hint="Right is CORSAC_ALLOWED_HOSTS='[\"corsac.lan\"]'."
            ) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file's table `[server]`."""
        directory = Path(os.environ.get(PREFIX + "DATA_DIRECTORY") or default_data_directory())
        arguments = getattr(init_settings, "init_kwargs", {})
        table = read_config_file(Path(arguments.get("data_directory", directory)) / FILE).server
        return init_settings, env_settings, lambda: dict(table)  # type: ignore[return-value]

    @property
    def config_file(self) -> Path:
        """The `corsac.toml` of the data directory."""
        return self.data_directory / FILE


def _refused(error: ValidationError) -> StartRefused:
    """What to tell the person who set an invalid value."""
    problems = error.errors(include_url=False, include_input=False)
    place = translate_validation_errors(problems, body_type=Settings, location="body").errors[0]
    name = place.pointer.removeprefix("/")
    return StartRefused(
        f"The setting {name} is not valid. {place.detail}",
        hint=f"It is set as {PREFIX}{name.upper()}, or as {name} under [server] in {FILE}.",
    )


def service_environment(service: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment's values for one service: `CORSAC_TTS__MAX_TEXT_CHARS=100` sets `max_text_chars` of `tts`.

    Args:
        service: The service's name.
        environment: Replaces the process's environment in tests.
    """
    start = f"{PREFIX}{service.upper()}__"
    variables = os.environ if environment is None else environment
    return {name.removeprefix(start).lower(): value for name, value in variables.items() if name.startswith(start)}
