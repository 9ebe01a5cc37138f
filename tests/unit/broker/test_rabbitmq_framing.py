"""What we encode ourselves is what pika decodes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from playbill.broker.port import HEADER_EPOCH, HEADER_ID, Outgoing
from playbill.broker.rabbitmq.framing import Framer

IDS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
MESSAGES = st.builds(
    Outgoing,
    id=IDS,
    epoch=st.integers(0, 2**63 - 1),
    queue=st.text(st.characters(codec="ascii"), min_size=1, max_size=100),
    body=st.binary(max_size=400),
)


@given(messages=st.lists(MESSAGES, max_size=5), channel=st.integers(1, 2047), frame_max=st.integers(16, 500))
def test_each_message_is_decoded_as_it_was_given(messages: list[Outgoing], channel: int, frame_max: int) -> None:
    data = Framer(channel, frame_max).encode(messages)
    for message in messages:
        read, method = frame.decode_frame(data)
        data = data[read:]
        assert isinstance(method.method, spec.Basic.Publish)
        assert (method.channel_number, method.method.exchange) == (channel, "")
        assert (method.method.routing_key, method.method.mandatory) == (message.queue, True)
        read, header = frame.decode_frame(data)
        data = data[read:]
        assert (header.channel_number, header.body_size) == (channel, len(message.body))
        properties = header.properties
        assert properties.headers == {HEADER_ID: message.id, HEADER_EPOCH: message.epoch}
        assert (properties.message_id, properties.delivery_mode) == (message.id, 2)
        assert properties.content_type == "application/json"
        body = b""
        while len(body) < len(message.body):
            read, piece = frame.decode_frame(data)
            assert read <= frame_max
            data, body = data[read:], body + piece.fragment
        assert body == message.body
    assert data == b""
