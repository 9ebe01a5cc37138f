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


def is_message(value: Any) -> bool:
    """Whether a value is a Dramatiq message as a mapping, such as callbacks and pipelines carry."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("actor_name"), str)
        and isinstance(value.get("args"), (list, tuple))
        and isinstance(value.get("kwargs"), Mapping)
        and isinstance(value.get("options"), Mapping)
    )


def message_secrets(message: Mapping[str, Any]) -> tuple[Any, ...]:
    """The sensitive arguments of a message, and of the messages in its arguments and options.

    Args:
        message: A message as a mapping; its option ``sensitive`` holds positions and names of arguments.
    """
    places = _places(message)
    found = [value for index, value in enumerate(message["args"]) if index in places]
    found += [value for name, value in message["kwargs"].items() if name in places]
    for value in (*message["args"], *message["kwargs"].values(), message["options"]):
        found += _secrets_within(value)
    return tuple(found)


def masked_message(message: Mapping[str, Any], forms: Collection[str] | None = None) -> dict[str, Any]:
    """The message to be shown: sensitive arguments masked, and wherever else in it their values show up.

    Args:
        message: A message as a mapping.
        forms: ``text_forms`` of what is to be masked in texts; None: of the message's own secrets.
    """
    if forms is None:
        forms = text_forms(message_secrets(message))
    places = _places(message)
    return {
        **message,
        "args": [MASK if i in places else mask_value(value, forms) for i, value in enumerate(message["args"])],
        "kwargs": {n: MASK if n in places else mask_value(v, forms) for n, v in message["kwargs"].items()},
        "options": {name: mask_value(value, forms) for name, value in message["options"].items()},
    }


def mask_value(value: Any, forms: Collection[str]) -> Any:
    """Mask secrets (``text_forms``) at any depth of a plain value, and the sensitive arguments of messages within."""
    if is_message(value):
        return masked_message(value, forms)
    if isinstance(value, str):
        return mask_forms(value, forms)
    if isinstance(value, Mapping):
        return {key: mask_value(item, forms) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask_value(item, forms) for item in value]
    return MASK if str(value) in forms else value


def _places(message: Mapping[str, Any]) -> frozenset[Any]:
    places = message["options"].get("sensitive")
    if not isinstance(places, (list, tuple)):
        return frozenset()
    return frozenset(place for place in places if isinstance(place, (int, str)))


def _secrets_within(value: Any) -> Iterator[Any]:
    if is_message(value):
        yield from message_secrets(value)
    elif isinstance(value, (list, tuple, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _secrets_within(item)


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
