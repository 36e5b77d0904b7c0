"""The wire: whatever arrives is a message within its bounds or one sentence, and headers survive the way."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from app.live import messages as wire
from app.live.frame_header import HEADER_BYTES, FrameHeader, pack_frame, unpack_frame
from app.live.message_reader import read_message
from app.live.messages import WireError

GOOD: list[dict[str, Any]] = [
    {"type": "session.start", "prompt": "a red ball", "seed": 7},
    {"type": "session.prompt_update", "id": "p1", "prompt": "a star", "transition": {"kind": "soft", "chunks": 4}},
    {"type": "session.prompt_update", "id": "p2", "prompt": [["a", 0.7], ["b", 0.3]], "queue": True, "hold": 8},
    {"type": "session.queue", "items": [{"id": "q", "prompt": "x", "hold": 2.5, "transition": {"kind": "cut"}}]},
    {"type": "session.look_up", "id": "w1", "prompt": "a cat at sun"},
    {"type": "session.set", "guidance_scale": 2.5, "steps": 4, "jpeg_quality": 80, "refresh_on_drift": 0.3},
    {"type": "session.do", "action": "rewind", "seconds": 5},
    {"type": "session.do", "action": "return", "branch": 3},
    {"type": "session.source", "kind": "camera", "number": 7, "strength": 0.6, "hold": 0.5, "latency": 0.4},
    {"type": "session.source", "kind": "camera", "number": 7, "record": True},
    {"type": "session.beginning", "kind": "clip", "number": 7, "count": 45, "name": "cat.mp4"},
    {"type": "ack", "seq": 12},
    {"type": "session.stop"},
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message["type"])
def test_every_message_of_a_client_is_read(message: dict[str, Any]) -> None:
    read = read_message(json.dumps(message))
    assert read.type == message["type"]
    assert json.loads(read.model_dump_json(exclude_unset=True)) == message
    assert read_message(read.model_dump_json()) == read


@pytest.mark.parametrize(
    ("message", "names"),
    [
        ("", "Invalid JSON"),
        ("null", "message"),
        ('{"type": "ack"}', "seq"),
        ('{"type": "ack", "seq": -1}', "seq"),
        ('{"type": "ack", "seq": "1"}', "seq"),
        ('{"type": "ack", "seq": 1, "more": 1}', "more"),
        ('{"type": "hello"}', "hello"),
        ('{"type": "session.do", "action": "rm"}', "action"),
        ('{"type": "session.do", "action": "rewind", "seconds": NaN}', "seconds"),
        ('{"type": "session.do", "action": "rewind", "seconds": 1e999}', "seconds"),
        ('{"type": "session.start", "prompt": "   "}', "prompt is empty"),
        ('{"type": "session.start", "prompt": [["a", 0]]}', "more than 0"),
        ('{"type": "session.start", "prompt": [["a", -1]]}', "prompt"),
        (json.dumps({"type": "session.start", "prompt": "x" * 1001}), "prompt"),
        (json.dumps({"type": "session.start", "prompt": "x" * 70_000}), "65536"),
        ('{"type": "session.start", "prompt": "x", "seed": 9007199254740992}', "seed"),
        ('{"type": "session.prompt_update", "id": "../x", "prompt": "x"}', "id"),
        ('{"type": "session.prompt_update", "id": "x", "prompt": "x", "transition": {"kind": "soft"}}', "length"),
        ('{"type": "session.source", "kind": "microphone"}', "kind"),
        ('{"type": "session.source", "kind": "camera", "strength": 0}', "strength"),
        ('{"type": "session.beginning", "kind": "image", "number": 1, "count": 0}', "count"),
        ('{"type": "session.source", "kind": "camera", "latency": 0.01}', "latency"),
        ('{"type": "session.queue", "items": [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}]}', "same id"),
        ('{"type": "ack", "seq": ' + "[" * 5000 + "}", "JSON"),
        ('{"type": "session.start", "prompt": "\\ud800"}', "JSON"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_its_name(message: str, names: str) -> None:
    with pytest.raises(WireError, match=r"^.{5,300}$") as refused:
        read_message(message)
    assert names in str(refused.value)


def mutated(draw: random.Random) -> bytes:
    """A message of a client with a byte or a value changed."""
    if draw.random() < 0.5:
        message = bytearray(json.dumps(draw.choice(GOOD)).encode())
        for _ in range(draw.randint(1, 2)):
            at = draw.randrange(len(message) + 1)
            match draw.randrange(4):
                case 0:
                    message[at:at] = draw.randbytes(draw.randint(1, 8))
                case 1:
                    del message[at : at + draw.randint(1, 8)]
                case 2:
                    message[at:at] = message[draw.randrange(len(message) + 1) :]
                case _:
                    message[at : at + 1] = bytes([draw.randrange(256)])
        return bytes(message)
    odd: list[Any] = [None, True, -1, 1e308, 2**70, "", "x" * 2000, "\u0000\u202e", [], {}, [[[]]], {"type": "ack"}]
    tree = dict(draw.choice(GOOD))
    key = draw.choice([*tree, "type", "unknown"])
    tree[key] = draw.choice([*odd, draw.choice(list(draw.choice(GOOD).values()))])
    return json.dumps(tree).encode()


def test_ten_thousand_mutated_messages_are_read_or_refused_and_none_takes_long() -> None:
    draw = random.Random(20)
    read = refused = 0
    slowest = 0.0
    for _ in range(10_000):
        sent = mutated(draw)
        begun = time.perf_counter()
        try:
            message = read_message(sent)
        except WireError as error:
            refused += 5 < len(str(error)) <= 300
        else:
            read += 1
            assert read_message(message.model_dump_json()) == message
        slowest = max(slowest, time.perf_counter() - begun)
    assert read > 100, "the mutations must leave some messages whole"
    assert read + refused == 10_000, "every refusal is one sentence"
    assert slowest < 1.0


@given(
    st.builds(
        FrameHeader,
        seq=st.integers(0, 2**32 - 1),
        frame=st.integers(0, 2**32 - 1),
        t=st.floats(allow_nan=False),
        made=st.floats(allow_nan=False),
        epoch=st.integers(0, 2**16 - 1),
        codec=st.integers(0, 255),
        key=st.booleans(),
    ),
    st.binary(max_size=64),
)
@settings(max_examples=200, deadline=None)
def test_a_frame_comes_out_as_it_went_in(header: FrameHeader, payload: bytes) -> None:
    message = pack_frame(header, payload)
    assert len(message) == HEADER_BYTES + len(payload) == 32 + len(payload)
    assert unpack_frame(message) == (header, payload)


@pytest.mark.parametrize("message", [b"", b"RV", b"XX" + bytes(40), b"RV\x02" + bytes(40)])
def test_what_is_no_frame_is_refused(message: bytes) -> None:
    with pytest.raises(WireError):
        unpack_frame(message)


def test_the_header_is_where_the_page_reads_it() -> None:
    """live.js reads these offsets; a change of one side must fail somewhere."""
    message = pack_frame(FrameHeader(seq=3, frame=4, t=0.25, made=1.5, epoch=2, key=True), b"jpeg")
    assert message[:2] == b"RV"
    assert message[2] == wire.VERSION
    assert message[3:6] == bytes([0, 1, 0])
    assert int.from_bytes(message[6:8], "little") == 2
    assert int.from_bytes(message[8:12], "little") == 3
    assert int.from_bytes(message[12:16], "little") == 4


def test_every_message_names_its_type_and_no_two_share_one_in_one_direction() -> None:
    def leaves(of: type[BaseModel]) -> set[type[BaseModel]]:
        below = of.__subclasses__()
        return {leaf for child in below for leaf in leaves(child)} if below else {of}

    for side in (wire.FromClient, wire.FromServer):
        types = [leaf.model_fields["type"].default for leaf in leaves(side) if "type" in leaf.model_fields]
        assert len(types) == len(set(types)) >= 7
