"""What is said of the serving configuration over HTTP; its own schema is recsys.serving.config."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from recsys.serving.config import ServingConfig


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("a text holds neither NUL nor half of a surrogate pair")
    return text


class NewConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")

    config: ServingConfig
    comment: Annotated[str, AfterValidator(_storable)] = Field(
        "", max_length=500, description="why, for whoever looks at the history", pattern=r"^[^\u0000]*$"
    )
    replaces: int | None = Field(
        None, ge=0, le=2**53, description="the version that this one was made from; refused when another is in force"
    )


class ConfigVersion(BaseModel):
    success: Literal[True] = True
    config_id: int = Field(description="0: the defaults")
    config: ServingConfig | None = Field(
        description="null: this version of the service cannot read it, and passes it over"
    )
    comment: str
    author: str = Field(description="the public part of the key that put it; empty where no key was needed")
    created_at: dt.datetime | None = None
    warnings: list[str] = Field(
        [], description="to who puts it: rules that leave a surface empty, and names that nothing here has"
    )


class ConfigInForce(ConfigVersion):
    passed_over: list[int] = Field(description="newer versions that this version of the service cannot read")
    problem: str | None = Field(description="what to do about those")


class ConfigHistory(BaseModel):
    success: Literal[True] = True
    versions: list[ConfigVersion]
