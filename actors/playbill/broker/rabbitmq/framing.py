"""AMQP frames of many messages in one piece of bytes.

Pika writes each frame with a system call of its own, three for a message, and encodes properties field by field; that
is most of what a publish costs. A batch written as one piece costs a third [measured: bench/transport.py].
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from pika.adapters.select_connection import SelectConnection
from pika.frame import Method
from pika.spec import Basic

from playbill.broker.port import HEADER_EPOCH, HEADER_ID, Outgoing

CONTENT_TYPE: Final = "application/json"

_FRAME_HEADER, _FRAME_BODY, _FRAME_END = 2, 3, b"\xce"
_FRAME_OVERHEAD = 8
#: Which properties follow, in this order: content_type, headers, delivery_mode, message_id (AMQP 0-9-1, 4.2.6).
_FLAGS = 1 << 15 | 1 << 13 | 1 << 12 | 1 << 7
_PERSISTENT = b"\x02"

_frame = struct.Struct(">BHI").pack
_content = struct.Struct(">HHQH").pack
_long = struct.Struct(">I").pack
_signed = struct.Struct(">q").pack


def _short_string(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data


_TYPE = _short_string(CONTENT_TYPE)
_ID = _short_string(HEADER_ID) + b"S"  #: a long string follows
_EPOCH = _short_string(HEADER_EPOCH) + b"l"  #: a signed 64-bit number follows


class Framer:
    """Encodes messages for one channel.

    Args:
        channel: Number of the channel.
        frame_max: Largest frame that the server takes, bytes.
    """

    def __init__(self, channel: int, frame_max: int) -> None:
        self._channel = channel
        self._body_max = frame_max - _FRAME_OVERHEAD
        self._methods: dict[str, bytes] = {}

    def encode(self, messages: Sequence[Outgoing]) -> bytes:
        """Frames of a mandatory, persistent publish of each message to the default exchange."""
        parts: list[bytes] = []
        for message in messages:
            body = message.body
            properties = self._properties(message)
            parts += (
                self._methods.get(message.queue) or self._method(message.queue),
                _frame(_FRAME_HEADER, self._channel, len(properties)),
                properties,
                _FRAME_END,
            )
            for start in range(0, len(body), self._body_max):
                piece = body[start : start + self._body_max]
                parts += (_frame(_FRAME_BODY, self._channel, len(piece)), piece, _FRAME_END)
        return b"".join(parts)

    def _method(self, queue: str) -> bytes:
        publish = Basic.Publish(exchange="", routing_key=queue, mandatory=True)
        encoded: bytes = Method(self._channel, publish).marshal()
        self._methods[queue] = encoded
        return encoded

    @staticmethod
    def _properties(message: Outgoing) -> bytes:
        id_ = message.id.encode()
        table = b"".join((_ID, _long(len(id_)), id_, _EPOCH, _signed(message.epoch)))
        return b"".join(
            (
                _content(Basic.INDEX, 0, len(message.body), _FLAGS),
                _TYPE,
                _long(len(table)),
                table,
                _PERSISTENT,
                bytes((len(id_),)),
                id_,
            )
        )


def write(connection: SelectConnection, data: bytes) -> None:
    """Hand frames to a connection. Pika has no public way to write what it did not encode itself."""
    connection._output_marshaled_frames([data])  # noqa: SLF001
