"""Array literals must read back as what was written, whatever the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pika.compat import long as pika_integer

from playbill.store.sets import bytes_array, number_array, text_array


def read_back(literal: str) -> list[str | None]:
    """A reader of PostgreSQL's array syntax for what we write: quoted texts and bare NULL."""
    assert literal[0] == "{"
    assert literal[-1] == "}"
    found: list[str | None] = []
    at, body = 0, literal[1:-1]
    while at < len(body):
        if body.startswith("NULL", at):
            found.append(None)
            at += 4
        else:
            assert body[at] == '"'
            at += 1
            text = ""
            while body[at] != '"':
                if body[at] == "\\":
                    at += 1
                text += body[at]
                at += 1
            found.append(text)
            at += 1
        assert at == len(body) or body[at] == ","
        at += 1
    return found


@given(st.lists(st.none() | st.text()))
def test_texts_read_back(values: list[str | None]) -> None:
    assert read_back(text_array(values)) == values


@given(st.lists(st.binary()))
def test_bytes_read_back(values: list[bytes]) -> None:
    assert [bytes.fromhex((text or "")[2:]) for text in read_back(bytes_array(values))] == values


@given(st.lists(st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_read_back(values: list[float | None]) -> None:
    items = [item for item in number_array(values)[1:-1].split(",") if item]
    assert [None if item == "NULL" else float(item) for item in items] == [
        None if value is None else float(value) for value in values
    ]


def test_the_integers_of_pika_are_plain_numbers() -> None:
    assert number_array([pika_integer(1), pika_integer(2**40)]) == "{1,1099511627776}"
