"""Channel between ranks: who does not know the token is sent away, and whoever does comes in behind."""

from __future__ import annotations

import socket
import struct
import threading

import pytest

from parallel.channel import Leader, Member


@pytest.mark.parametrize("hello", [b"wrong 1", "t\u00f6ken 1".encode(), b"\xff\xfe 1", b"token nine", b"token 7", b""])
def test_a_stranger_is_sent_away_and_the_rank_behind_comes_in(hello: bytes) -> None:
    leader = Leader("127.0.0.1", 2, "token", lambda rank: "", lambda why: None)
    gathering = threading.Thread(target=leader.gather, daemon=True)
    with socket.create_connection(("127.0.0.1", leader.port), timeout=30) as stranger:
        stranger.sendall(struct.pack(">H", len(hello)) + hello)
        gathering.start()
        assert stranger.recv(1) == b"", "a stranger was told something"
    member = Member("127.0.0.1", leader.port, "token", 1, lambda why: None)
    gathering.join(30)
    assert not gathering.is_alive()
    leader.tell("begin")
    assert member.hear() == "begin"
    member.close()
    leader.close()
