"""What a key may be used for: networks and models, as they are written, and what they let through."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keytoll.core.access import MAX_MODELS, MAX_NETWORKS, check_models, check_networks
from keytoll.core.errors import InvalidValue


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("2001:db8:0:0::1", "2001:db8::1/128"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
    ],
)
def test_networks_are_kept_in_one_form_and_a_bare_address_is_one(text: str, canonical: str) -> None:
    networks = check_networks([text, text])
    assert networks is not None
    assert networks.texts == (canonical,)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.1/8", "2001:db8::1/32", "10.0.0.0/33", "10.0.0/8", "010.0.0.0/8", "10.0.0.0/255.0.0.0", "localhost",
     "10.0.0.0/8 ", "::1%lo", "::/129", "1" * 100, "10.0.0.0/-1", "١٠.0.0.0/8"],
)  # fmt: skip
def test_what_is_no_network_or_has_bits_behind_its_prefix_is_refused_by_field(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_networks(["192.0.2.0/24", text])
    assert caught.value.field == "allowed_networks"


def test_bits_behind_the_prefix_are_told_with_what_may_be_meant() -> None:
    with pytest.raises(InvalidValue, match=r"10\.0\.0\.1/8 has address bits behind its prefix; 10\.0\.0\.0/8"):
        check_networks(["10.0.0.1/8"])


def test_no_list_means_everywhere_and_an_empty_one_is_refused() -> None:
    assert check_networks(None) is None
    with pytest.raises(InvalidValue, match="null means everywhere"):
        check_networks([])


def test_lists_are_bounded() -> None:
    assert check_networks([f"10.0.{n}.0/24" for n in range(MAX_NETWORKS)])
    with pytest.raises(InvalidValue, match="1 to 50"):
        check_networks([f"10.0.{n}.0/24" for n in range(MAX_NETWORKS + 1)])
    assert check_models([f"m{n}" for n in range(MAX_MODELS)])
    with pytest.raises(InvalidValue, match="at most 100"):
        check_models([f"m{n}" for n in range(MAX_MODELS + 1)])


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_a_network_holds_exactly_its_addresses(base: object, prefix: int, source: object) -> None:
    network = ip_network(f"{base}/{min(prefix, ip_address(str(base)).max_prefixlen)}", strict=False)
    networks = check_networks([str(network)])
    address = ip_address(str(source))
    if getattr(network.network_address, "ipv4_mapped", None) or getattr(address, "ipv4_mapped", None):
        return  # told apart below
    assert networks is not None
    assert networks.hold(str(address)) == (address.version == network.version and address in network)
    assert networks.hold(str(network.network_address))
    last = network.broadcast_address
    # ::/80 and wider ends with addresses that stand for IPv4 ones, which are no IPv6 addresses to us.
    assert networks.hold(str(last)) == (getattr(last, "ipv4_mapped", None) is None)


def test_an_ipv4_address_is_known_also_as_a_socket_for_both_kinds_tells_it() -> None:
    networks = check_networks(["192.0.2.0/24"])
    assert networks is not None
    assert networks.hold("::ffff:192.0.2.9")
    assert not networks.hold("::ffff:192.0.3.9")


@pytest.mark.parametrize("source", ["", "envoy.sock", "10.0.0.1:443", "not an address"])
def test_what_is_no_address_is_in_no_network(source: str) -> None:
    networks = check_networks(["0.0.0.0/0", "::/0"])
    assert networks is not None
    assert not networks.hold(source)


@pytest.mark.parametrize("names", [None, []])
def test_no_models_named_means_all(names: list[str] | None) -> None:
    assert check_models(names) is None


def test_models_are_kept_once_each_in_their_order() -> None:
    assert check_models(["org/b:70b", "a", "org/b:70b"]) == ("org/b:70b", "a")


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", "a\n", "é", "a" * 129, "a\0"])
def test_what_can_be_no_models_name_is_refused_by_field(name: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_models(["m", name])
    assert caught.value.field == "allowed_models"
