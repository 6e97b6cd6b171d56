"""What all parts of a workflow file share: frozen, strict, and no key that is not known."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from meshflow.config.problems import BOOLEAN_HINT

DAY_MS = 86_400_000
MAX_COUNT = 1_000_000
NODE_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
# What CEL keeps for itself; nodes.in.output would not parse.
RESERVED = frozenset({
    "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import", "in", "let", "loop",
    "namespace", "null", "package", "return", "true", "var", "void", "while",
})  # fmt: skip


class Part(BaseModel):
    """A part of a workflow file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True, allow_inf_nan=False)

    def written(self) -> dict[str, Any]:
        """Return what the author set, under the names of the file."""
        return self.model_dump(by_alias=True, exclude_unset=True)


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {'true' if value else 'false'}")
    return value


def _word(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"should be text ({BOOLEAN_HINT})")
    return value


def _stripped(value: str) -> str:
    if value != value.strip():
        raise ValueError("begins or ends with a space")
    return value


def _names(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("is an empty list; name something, or leave the setting out")
    if len(set(names)) < len(names):
        raise ValueError("names one thing twice")
    return names


# The constraint stands before the validator, so that the schema of the file has it.
Name = Annotated[str, Field(min_length=1, max_length=128), BeforeValidator(_word), AfterValidator(_stripped)]
Names = Annotated[tuple[Name, ...], Field(strict=False), BeforeValidator(_names), AfterValidator(_distinct)]
Milliseconds = Annotated[int, Field(ge=1, le=DAY_MS), BeforeValidator(_number)]
Count = Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(_number)]
Attempts = Annotated[int, Field(ge=1, le=100), BeforeValidator(_number)]
AtOnce = Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_number)]
Rounds = Annotated[int, Field(ge=1, le=100_000), BeforeValidator(_number)]
Tokens = Annotated[int, Field(ge=0, le=2**53 - 1), BeforeValidator(_number)]
AnswerTokens = Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(_number)]
Usd = Annotated[float, Field(ge=0, le=1e9), BeforeValidator(_number)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_number)]
Condition = Annotated[str, Field(min_length=1), BeforeValidator(_word)]
