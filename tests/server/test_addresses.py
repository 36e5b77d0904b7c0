"""Who counts as the one who asks: headers of proxies that are trusted, and nobody else's."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from app.cli.main import main
from app.server.access import ALLOWED
from app.server.addresses import Proxies, household, read_proxies
from app.server.routes import make_app
from tests.live_doubles import SECRET, PaintedEngine, served

PROXY = "10.0.0.1"
TRUSTED = read_proxies(["10.0.0.0/24, 2001:db8::1"])
WRONG = f"Basic {base64.b64encode(b'ann:wrong').decode()}"


def settled(peer: str, *headers: tuple[str, str], proxies: Proxies = TRUSTED, kind: str = "http") -> dict[str, Any]:
    scope: dict[str, Any] = {
        "type": kind,
        "client": (peer, 5),
        "scheme": "http" if kind == "http" else "ws",
        "headers": [(b"host", b"inner:7860"), *((n.encode(), v.encode("latin-1")) for n, v in headers)],
    }
    proxies.settle(scope)
    return scope


@pytest.mark.parametrize(
    ("peer", "told", "client"),
    [
        (PROXY, "203.0.113.9", "203.0.113.9"),
        (PROXY, "1.1.1.1, 203.0.113.9", "203.0.113.9"),  # what stands left of it, the client may have written
        (PROXY, "1.1.1.1, 203.0.113.9, 10.0.0.7", "203.0.113.9"),  # two proxies in a row
        (PROXY, "10.0.0.9, 10.0.0.7", "10.0.0.9"),
        (PROXY, "203.0.113.9:4711", "203.0.113.9"),
        (PROXY, "[2001:db8:7::9]:4711", "2001:db8:7::9"),
        (PROXY, "2001:db8:7::9", "2001:db8:7::9"),
        (PROXY, "::ffff:203.0.113.9", "203.0.113.9"),
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", "203.0.113.9", "203.0.113.9"),
        (PROXY, "1.1.1.1, unknown", PROXY),
        (PROXY, "1.1.1.1, 10.0.0.7, _hidden, 10.0.0.8", "10.0.0.8"),
        (PROXY, "", PROXY),
        (PROXY, ",,,", PROXY),
        (PROXY, "999.1.1.1", PROXY),
        (PROXY, "ÿ\x01[::", PROXY),
        ("203.0.113.1", "1.1.1.1", "203.0.113.1"),  # not a proxy of ours
        ("testclient", "1.1.1.1", "testclient"),
    ],
)
def test_the_client_is_the_right_most_hop_that_is_no_proxy_of_ours(peer: str, told: str, client: str) -> None:
    assert settled(peer, ("x-forwarded-for", told))["client"][0] == client


def test_several_lines_of_a_header_count_as_one() -> None:
    hops = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.9")]
    assert settled(PROXY, *hops)["client"][0] == "203.0.113.9"


def test_nothing_that_a_stranger_forwards_reaches_the_application() -> None:
    headers = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-host", "evil.example"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/evil"),
        ("forwarded", "for=1.1.1.1;host=evil.example;proto=https"),
        ("x-real-ip", "1.1.1.1"),
        ("accept", "*/*"),
    ]
    scope = settled("203.0.113.1", *headers)
    assert scope["headers"] == [(b"host", b"inner:7860"), (b"accept", b"*/*")]
    assert (scope["client"], scope["scheme"]) == (("203.0.113.1", 5), "http")
    trusted = settled(PROXY, *headers)
    assert sorted(trusted["headers"]) == [(b"accept", b"*/*"), (b"host", b"evil.example")]
    only_others = settled(PROXY, *headers[4:])
    assert (only_others["client"][0], only_others["scheme"]) == (PROXY, "http")


@pytest.mark.parametrize(
    ("kind", "told", "scheme"),
    [
        ("http", "https", "https"),
        ("http", "http, https", "https"),
        ("http", "HTTPS", "https"),
        ("websocket", "https", "wss"),
        ("websocket", "wss", "wss"),
        ("http", "gopher", "http"),
        ("http", "", "http"),
        ("websocket", "javascript:", "ws"),
    ],
)
def test_the_scheme_is_the_one_the_proxy_was_asked_by(kind: str, told: str, scheme: str) -> None:
    assert settled(PROXY, ("x-forwarded-proto", told), kind=kind)["scheme"] == scheme


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"]),
            st.text(st.characters(max_codepoint=255), max_size=60),
        ),
        max_size=6,
    )
)
def test_no_value_breaks_anything(headers: list[tuple[str, str]]) -> None:
    scope = settled(PROXY, *headers)
    assert isinstance(scope["client"][0], str)
    assert scope["scheme"] in ("http", "https")


def test_a_household_is_an_address_or_a_64_of_ipv6() -> None:
    assert household("203.0.113.9") == household("::ffff:203.0.113.9") != household("203.0.113.10")
    assert household("2001:db8:1:2::3") == household("2001:db8:1:2:ffff:1:1:1") != household("2001:db8:1:3::3")
    assert household("fe80::1%eth0") == household("fe80::2%eth9")
    assert household("testclient") == "testclient"


def guess(client: TestClient, **headers: str) -> int:
    sent = {"authorization": WRONG} | {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get("/healthz", headers=sent).status_code


def client_of(tmp_path: Path, peer: str, proxies: Proxies | None) -> TestClient:
    app = make_app(
        PaintedEngine(folder=tmp_path),
        secret=SECRET,
        page=False,
        login="ann:x",
        proxies=proxies,
        hosts=["film.example"],
    )
    return TestClient(app, base_url="http://localhost", client=(peer, 5))


@pytest.mark.parametrize("proxies", [None, TRUSTED])
def test_a_guesser_cannot_become_another_by_a_header(tmp_path: Path, proxies: Proxies | None) -> None:
    with client_of(tmp_path, "203.0.113.1", proxies) as client:
        for number in range(ALLOWED):
            assert guess(client, x_forwarded_for=f"1.1.1.{number}", x_real_ip=f"1.1.2.{number}") == 401
        assert guess(client, x_forwarded_for="1.1.3.1", forwarded="for=9.9.9.9") == 429
    with client_of(tmp_path, PROXY, TRUSTED) as client:  # and behind the proxy, which appends
        for number in range(ALLOWED):
            assert guess(client, x_forwarded_for=f"1.1.1.{number}, 203.0.113.1") == 401
        assert guess(client, x_forwarded_for="1.1.3.1, 203.0.113.1") == 429
        assert guess(client, x_forwarded_for="1.1.3.1, 203.0.113.2") == 401, "another client has its own count"


def test_a_guesser_with_a_network_of_ipv6_addresses_is_one_guesser(tmp_path: Path) -> None:
    with client_of(tmp_path, PROXY, TRUSTED) as client:
        for number in range(ALLOWED):
            assert guess(client, x_forwarded_for=f"2001:db8:1:2:{number:x}::1") == 401
        assert guess(client, x_forwarded_for="2001:db8:1:2:abcd::1") == 429
        assert guess(client, x_forwarded_for="2001:db8:1:3::1") == 401


def guess_from_outside(address: str, forwarded: str) -> int:
    asked = Request(f"http://{address}/healthz", headers={"Authorization": WRONG, "X-Forwarded-For": forwarded})
    with pytest.raises(HTTPError) as refused:
        urlopen(asked, timeout=20)
    refused.value.close()
    return refused.value.code


def test_uvicorn_itself_believes_no_header_of_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    app = make_app(PaintedEngine(folder=tmp_path), secret=SECRET, page=False, login="ann:x")
    with served(app) as address:
        statuses = [guess_from_outside(address, f"1.1.1.{number}") for number in range(ALLOWED + 1)]
    assert statuses == [401] * ALLOWED + [429]


def test_a_page_behind_a_trusted_proxy_is_ours_under_the_name_that_it_tells(tmp_path: Path) -> None:
    asked = {"origin": "https://film.example", "x-forwarded-host": "film.example", "x-forwarded-proto": "https"}
    login = {"auth": ("ann", "x")}
    with client_of(tmp_path, PROXY, TRUSTED) as client:
        answer = client.post("/healthz", headers=asked, auth=("ann", "x"))
        assert answer.status_code == 405, "the page is ours; there is only no such method"
        assert client.post("/healthz", headers=asked | {"x-forwarded-host": "evil.example"}, **login).status_code == 421
        cookie = client.get("/healthz", headers=asked, auth=("ann", "x")).headers["set-cookie"]
        assert cookie.endswith("; Secure")
    with client_of(tmp_path, "203.0.113.1", TRUSTED) as client:
        forged = {"origin": "https://evil.example", "x-forwarded-host": "evil.example"}
        assert client.post("/healthz", headers=forged, auth=("ann", "x")).status_code == 403
        assert "Secure" not in client.get("/healthz", headers=asked, auth=("ann", "x")).headers["set-cookie"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--proxy_headers"], "--trusted_proxies"),
        (["--trusted_proxies", "127.0.0.1"], "--proxy_headers"),
        (["--proxy_headers", "--trusted_proxies", "nginx"], "no address"),
        (["--proxy_headers", "--trusted_proxies", "127.0.0.1,10.0.0.0/99"], "no address"),
        (["--proxy_headers", "--trusted_proxies", "0.0.0.0/0"], "everybody"),
        (["--proxy_headers", "--trusted_proxies", "::/0"], "everybody"),
        (["--proxy_headers", "--trusted_proxies", " , "], "names no proxy"),
    ],
)
def test_proxies_are_named_by_whoever_starts_the_server(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["web", "--no_open", *flags]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
