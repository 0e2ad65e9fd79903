"""Who the client is when a proxy of ours stands between."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.types import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class TrustedProxies:
    """Believes `X-Forwarded-For` and `X-Forwarded-Proto` from some addresses and from nobody else.

    Args:
        addresses: Addresses or networks of proxies, for example `10.0.0.5` or `10.0.0.0/24`.

    Raises:
        ValueError: One of them is neither.
    """

    def __init__(self, addresses: Iterable[str] = ()) -> None:
        self.networks: tuple[Network, ...] = tuple(ipaddress.ip_network(each) for each in addresses)

    def peer(self, scope: Scope) -> str:
        """The client's address: the last one in the chain that is not a proxy of ours.

        Sets the scope's scheme to what the client used.
        """
        client = scope.get("client")
        peer = client[0] if client else "unknown"
        if not self.networks or not self._trusts(peer):
            return peer
        chain: list[str] = []
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                chain += [part.strip() for part in value.decode("latin-1").split(",")]
            elif name == b"x-forwarded-proto" and value in (b"https", b"http"):
                scope["scheme"] = value.decode()
        return next((each for each in reversed(chain) if not self._trusts(each)), peer)

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.networks)
