"""Keys that make a job unique: one live job per tenant and key."""

from __future__ import annotations

import unicodedata
from typing import Any

from playbill.errors import InvalidInputError

MAX_KEY_BYTES = 512


def check_key(key: Any) -> str:
    """Check a unique key and bring it to one spelling.

    Args:
        key: 1 to 512 bytes of printable text (UTF-8), no blank at its ends.

    Returns:
        The key in Unicode normal form C, so that what looks the same is the same.

    Raises:
        InvalidInputError: It is none.
    """
    if not isinstance(key, str):
        raise InvalidInputError("key", f"{key!r} is not a text; write it as one, for example f'transfer:{{id}}'")
    normal = unicodedata.normalize("NFC", key)
    if not normal:
        raise InvalidInputError("key", "is empty; leave it out if the job need not be unique")
    if not normal.isprintable() or normal != normal.strip():
        raise InvalidInputError("key", f"{key!r} has control characters or blanks at an end; remove them")
    if (size := len(normal.encode())) > MAX_KEY_BYTES:
        raise InvalidInputError("key", f"has {size} bytes, over {MAX_KEY_BYTES}; shorten it, for example to a hash")
    return normal
