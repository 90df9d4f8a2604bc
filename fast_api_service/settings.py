"""Settings of the service alone, from the environment: API_HOST, API_PORT and the like."""

from __future__ import annotations

import ipaddress
import re

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from recsys.settings import ROOT


class ApiSettings(BaseSettings):
    """How the service listens and how patient it is. The database comes from DATABASE_URL (recsys.settings)."""

    model_config = SettingsConfigDict(
        env_prefix="API_", env_file=ROOT / ".env", env_ignore_empty=True, extra="ignore", allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="loopback by default; elsewhere nothing is served without API keys")
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="processes that share the port; max_in_flight and pool_size are of each, so that N of them open N"
        " times the connections to Postgres",
    )
    deadline_ms: float = Field(
        150.0, gt=0, le=60_000, description="for a recommendation: what is not there in time is left out"
    )
    batch_deadline_ms: float = Field(5000.0, gt=0, le=60_000, description="the same for a batch of users")
    max_in_flight: int = Field(
        64, ge=1, le=10_000, description="requests of a kind at a time in a worker; more are rejected with 503"
    )
    request_timeout_s: float = Field(
        10.0, gt=0, le=600, description="for a client to send a whole request, and to read some of an answer"
    )
    pool_size: int = Field(8, ge=1, le=100, description="connections to Postgres of a worker that read for requests")
    poll_s: float = Field(1.0, gt=0, le=5, description="how often API keys and the publication pointer are looked at")
    model_wait_s: float = Field(
        30.0, ge=0, le=600, description="how long another publication waits for its models before it is served without"
    )
    rate_per_s: float = Field(
        1000.0, gt=0, description="requests per second, all workers of a port together, of a key without its own rate"
    )
    cors_origins: list[str] = Field(
        [], description='pages that may call from a browser, e.g. ["https://shop.example"]; none by default'
    )

    hosts: list[str] = Field(
        [], description="names of this service in the Host header, beside localhost, while no API key is needed"
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+", origin):
                raise ValueError(f"{origin!r} is no origin; expected https://host or https://host:port")
        return origins

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
