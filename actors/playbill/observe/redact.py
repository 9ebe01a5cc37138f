"""Keeps secrets out of what people read: masked arguments, and masked values inside messages and tracebacks.

Pure. Masking too much is a nuisance, masking too little is a leak: in doubt these functions mask.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

MASK: Final = "***"

#: Shorter values would blank out ordinary words and digits.
MIN_SECRET_CHARS: Final = 3

#: Keys whose text values are masked wherever they are logged.
SECRET_KEYS: Final = frozenset(
    {"password", "passwd", "secret", "api_key", "apikey", "authorization", "access_token", "refresh_token", "cookie"}
)

# Greedy up to the last @ of the word: a raw "/" or "@" in a password must not uncover its tail.
_URL_PASSWORD: Final = re.compile(r"(://[^\s:/@\"']*:)\S+@")
_QUERY_PASSWORD: Final = re.compile(r"([?&][a-z_]*(?:password|passwd|secret|token)=)[^&\s\"']+", re.IGNORECASE)


def signature_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of a function's positional parameters; a ``*args`` parameter keeps its star."""
    names = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            names.append(f"*{parameter.name}")
    return tuple(names)


def mask_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], sensitive: Collection[str], names: Sequence[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replace sensitive arguments by ``***``.

    Args:
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        sensitive: Names of the parameters to mask.
        names: The function's positional parameters, as ``signature_names`` gives them.

    Returns:
        The arguments, masked. A position without a name is masked too (the signature may have changed since).
    """
    if not sensitive:
        return tuple(args), dict(kwargs)
    masked_args = tuple(
        MASK if _is_sensitive_position(index, sensitive, names) else value for index, value in enumerate(args)
    )
    return masked_args, {name: MASK if name in sensitive else value for name, value in kwargs.items()}


def secret_values(
    args: Sequence[Any], kwargs: Mapping[str, Any], sensitive: Collection[str], names: Sequence[str]
) -> tuple[Any, ...]:
    """The values that ``mask_arguments`` would hide, for ``mask_text``."""
    if not sensitive:
        return ()
    positional = (value for index, value in enumerate(args) if _is_sensitive_position(index, sensitive, names))
    return (*positional, *(value for name, value in kwargs.items() if name in sensitive))


def text_forms(values: Iterable[Any]) -> tuple[str, ...]:
    """Every text in which the values may show up (as they are, quoted, as JSON, and each scalar within), longest first.

    None, booleans and anything under three characters are left out: they would blank out ordinary text.
    """
    forms = {form for value in values for form in _forms(value) if len(form) >= MIN_SECRET_CHARS}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


def mask_text(text: str, values: Iterable[Any]) -> str:
    """Replace every form of the secret values inside a text, such as an error's message or a traceback, by ``***``."""
    return mask_forms(text, text_forms(values))


def mask_forms(text: str, forms: Iterable[str]) -> str:
    """As ``mask_text``, with the forms worked out before (``text_forms``)."""
    for form in forms:
        text = text.replace(form, MASK)
    return text


def mask_urls(text: str) -> str:
    """Hide passwords of URLs, in the user part and in query parameters."""
    if "://" not in text:
        return text
    return _QUERY_PASSWORD.sub(rf"\1{MASK}", _URL_PASSWORD.sub(rf"\1{MASK}@", text))


def _is_sensitive_position(index: int, sensitive: Collection[str], names: Sequence[str]) -> bool:
    name = names[min(index, len(names) - 1)] if names else ""
    if name.startswith("*"):
        return name[1:] in sensitive
    return index >= len(names) or name in sensitive


def _forms(value: Any) -> Iterator[str]:
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        # As it stands, as Python quotes it, and as JSON escapes it with and without non-ASCII letters.
        yield from (value, repr(value)[1:-1], json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
        return
    yield from (str(value), repr(value))
    if isinstance(value, Mapping | list | tuple):
        yield from _json_forms(value)
    children = value.values() if isinstance(value, Mapping) else value
    if isinstance(children, Iterable) and not isinstance(value, bytes | bytearray):
        for child in children:
            yield from _forms(child)


def _json_forms(value: Any) -> Iterator[str]:
    for separators in ((", ", ": "), (",", ":")):
        try:
            yield json.dumps(value, separators=separators)
        except (TypeError, ValueError, RecursionError):
            return  # not JSON, so it cannot show up as JSON
