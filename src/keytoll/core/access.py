"""What a key may be used for: by which client networks, and with which models. None, in both, means no restriction."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from keytoll.core.errors import InvalidValue

MAX_MODELS = 100
MAX_NETWORKS = 50

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
_NETWORK = re.compile(r"[0-9A-Fa-f:.]{2,45}(?:/\d{1,3})?", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")
_Range = tuple[int, int, int]
"""An IP version, and the first and the last address as numbers."""


@dataclass(frozen=True, slots=True)
class Networks:
    """Client networks in their canonical form (`10.0.0.0/8`, `2001:db8::/32`), at least one; parsed once."""

    texts: tuple[str, ...]
    _ranges: tuple[_Range, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ranges", tuple(map(_range, self.texts)))

    def hold(self, source: str) -> bool:
        """Return whether an address is in one of the networks; what is no IP address is in none."""
        try:
            address = _unmapped(ip_address(source))
        except ValueError:
            return False
        version, number = address.version, int(address)
        return any(version == of and first <= number <= last for of, first, last in self._ranges)


def check_models(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the models that a key may use, each once; none given means all.

    A name need not be on offer: catalogs change. Raises InvalidValue for what can't be a model's name, or too many.
    """
    if not names:
        return None
    if len(names) > MAX_MODELS:
        raise InvalidValue("allowed_models", f"must have at most {MAX_MODELS} models")
    if any(_MODEL.fullmatch(name) is None for name in names):
        raise InvalidValue(
            "allowed_models",
            "must be names of models: 1 to 128 letters, digits and . _ : / @ + -, beginning with a letter or digit",
        )
    return tuple(dict.fromkeys(names))


def check_networks(texts: Sequence[str] | None) -> Networks | None:
    """Return the networks that a key may be used from, each once; None means everywhere.

    A bare address is a network of its own. Raises InvalidValue for what is no network, for address bits behind the
    prefix, for too many and for an empty list, which might be meant as nowhere.
    """
    if texts is None:
        return None
    if not 1 <= len(texts) <= MAX_NETWORKS:
        raise InvalidValue("allowed_networks", f"must have 1 to {MAX_NETWORKS} networks; null means everywhere")
    return Networks(tuple(dict.fromkeys(map(_canonical, texts))))


def _canonical(text: str) -> str:
    if _NETWORK.fullmatch(text) is None:
        raise InvalidValue("allowed_networks", "must be networks such as 192.0.2.0/24 or 2001:db8::/32, or addresses")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise InvalidValue("allowed_networks", f"{text} is not an IPv4 or IPv6 network") from None
    prefix = network.prefixlen
    if network.network_address != ip_address(text.partition("/")[0]):
        raise InvalidValue("allowed_networks", f"{text} has address bits behind its prefix; {network} would have none")
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return f"{_unmapped(network.network_address)}/{prefix - _MAPPED.prefixlen}"
    return str(network)


@lru_cache(maxsize=4096)
def _range(text: str) -> _Range:
    network = ip_network(text)
    return network.version, int(network.network_address), int(network.broadcast_address)


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv6 address stands for, as sockets for both kinds tell it."""
    return getattr(address, "ipv4_mapped", None) or address
