"""Client addresses: the address, name and scheme that count for a request, with and without trusted proxies in front.

Anybody can write X-Forwarded-For, so it counts only from a proxy that whoever started the server has named; from all
others it is taken out of the request before anything could read it, Gradio included.
"""

import ipaddress
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

MOST_HOPS = 32
"""Proxies in a row that are followed."""
FORWARDED = "rivulet.forwarded"
"""The key of a scope: whether the request says that somebody passed it on."""
_CARRIED = (b"forwarded", b"x-real-ip")
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies whose word counts: `networks` are theirs; empty trusts nobody."""

    networks: tuple[Network, ...] = ()

    def trusts(self, address: str) -> bool:
        """Whether a request from this address comes from one of them."""
        read = read_address(address)
        return read is not None and any(read in network for network in self.networks)

    def settle(self, scope: MutableMapping[str, Any]) -> None:
        """Put into `scope` what counts as client, Host and scheme, and take the headers out that claim others.

        The client is the right-most address in X-Forwarded-For that is no trusted proxy: what stands left of it the
        client may have written itself. A hop that is no address ends the search at the proxy that told of it.
        `Forwarded` and X-Real-IP never count, because proxies that do not know them pass them on as they came. Whether
        any of them was there stands under FORWARDED.
        """
        told: dict[bytes, list[str]] = {}
        kept: list[tuple[bytes, bytes]] = []
        for name, value in scope["headers"]:
            if name.startswith(b"x-forwarded-") or name in _CARRIED:
                told.setdefault(name, []).extend(part.strip() for part in value.decode("latin-1").split(","))
            else:
                kept.append((name, value))
        scope["headers"], scope[FORWARDED] = kept, bool(told)
        peer = scope.get("client")
        if peer is None or not self.trusts(peer[0]):
            return
        scope["client"] = self._client(peer, told.get(b"x-forwarded-for", []))
        scheme = _SCHEMES.get(told.get(b"x-forwarded-proto", [""])[-1].lower())
        if scheme is not None:
            scope["scheme"] = scheme if scope["type"] == "http" else {"http": "ws", "https": "wss"}[scheme]
        if host := told.get(b"x-forwarded-host", [""])[-1]:
            scope["headers"] = [(n, v) for n, v in kept if n != b"host"] + [(b"host", host.encode("latin-1"))]

    def _client(self, peer: tuple[str, int], hops: list[str]) -> tuple[str, int]:
        client = peer
        for hop in reversed(hops[-MOST_HOPS:]):
            address = read_address(_without_port(hop))
            if address is None:
                break
            client = (str(address), 0)
            if not self.trusts(client[0]):
                break
        return client


def read_proxies(given: Iterable[str]) -> Proxies:
    """Read --trusted_proxies: addresses and networks, several in one with commas between them.

    Raises:
        ValueError: none is given, one is neither, or is the whole internet.
    """
    networks: list[Network] = []
    for word in (part.strip() for each in given for part in each.split(",") if part.strip()):
        try:
            network = ipaddress.ip_network(word, strict=False)
        except ValueError:
            raise ValueError(
                f"--trusted_proxies has {word[:60]!r}, which is no address. Write 127.0.0.1 or 10.0.0.0/8."
            ) from None
        if not network.prefixlen:
            raise ValueError(f"--trusted_proxies {word[:60]} would trust everybody. Name the proxy's own address.")
        networks.append(network)
    if not networks:
        raise ValueError("--trusted_proxies names no proxy. Write its address, for example 127.0.0.1.")
    return Proxies(tuple(networks))


def read_address(text: str) -> Address | None:
    """The address that a text says, None if it says none; an IPv4 address in IPv6 clothes is the IPv4 address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def household(address: str) -> str:
    """What is counted as one visitor: an IPv4 address, the /64 of an IPv6 address, of which everybody has one."""
    read = read_address(address)
    if isinstance(read, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((int(read) >> 64 << 64, 64)))
    return address if read is None else str(read)


def _without_port(hop: str) -> str:
    """`1.2.3.4:5`, `[::1]:5` and `[::1]` as their address."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
