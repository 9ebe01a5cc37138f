"""From pydantic's errors to one sentence a problem: path, value, remedy."""

from __future__ import annotations

import difflib
import reprlib
import types
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

#: Values in messages are cut: a document may be huge, and hostile ones nest aliases.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. ``path`` is as in YAML, for example ``spec.retry.maxAttempts``."""

    path: str
    message: str
    loc: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """All problems of a refused document, in the order of the model's fields.

    Args:
        error: What ``model.model_validate`` raised.
        model: The model, to suggest names for unknown fields.
    """
    return [_problem(item, model) for item in error.errors(include_url=False)]


def dotted(loc: Iterable[str | int]) -> str:
    """``("spec", "modules", 0)`` -> ``spec.modules[0]``."""
    path = ""
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _problem(item: Any, model: type[BaseModel]) -> Problem:
    loc: tuple[str | int, ...] = item["loc"]
    path = dotted(loc) or "document"
    kind = item["type"]
    if kind == "extra_forbidden":
        return Problem(path, f"unknown field{_suggestion(str(loc[-1]), _names_at(model, loc[:-1]))}", loc)
    if kind == "missing":
        return Problem(path, "missing; add it", loc)
    if kind == "model_type":
        return Problem(path, f"{_shown(item['input'])} is not a mapping of fields", loc)
    message = item["msg"]
    if kind in ("jobqueue", "duration"):
        return Problem(path, message, loc)
    return Problem(path, f"{_shown(item['input'])} is refused: {message[:1].lower()}{message[1:]}", loc)


def _suggestion(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f", did you mean {near[0]}?"
    return f"; known here: {', '.join(known)}" if known else "; remove it"


def _shown(value: Any) -> str:
    return _REPR.repr(value)


def _names_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The fields that exist where ``loc`` points, by their YAML names."""
    here: type[BaseModel] | None = model
    for part in loc:
        here = _field_model(here, str(part)) if here is not None else None
    if here is None:
        return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _field_model(model: type[BaseModel], alias: str) -> type[BaseModel] | None:
    for name, field in model.model_fields.items():
        if alias in (name, field.alias):
            return _model_in(field.annotation)
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if get_origin(annotation) in (Union, types.UnionType):
        return next((found for arg in get_args(annotation) if (found := _model_in(arg)) is not None), None)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None
