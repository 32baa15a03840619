"""What every part of a configuration is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lcia.secrets import has_password, instead

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""What every random generator in use takes."""


class Section(BaseModel):
    """A frozen part of a configuration. Unknown keys, infinite numbers and addresses with passwords are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*")
    @classmethod
    def _addresses_hold_no_password(cls, value: Any) -> Any:
        for address in filter(has_password, _texts(value)):
            raise ValueError(
                "an address here holds a password, and configurations are stored and shown: take it out and give it as "
                f"{cls._instead(address)}"
            )
        return value

    @classmethod
    def _instead(cls, address: str) -> str:
        """Where the password of an address of this section belongs."""
        return instead(address)


def _texts(value: Any) -> Iterator[str]:
    """All texts in plain nested values; the sections among them have looked at their own."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _texts(inner)
