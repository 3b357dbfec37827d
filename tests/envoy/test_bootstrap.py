"""Envoy's configuration for a place: what is asked for is changed on Keytoll's two listeners, and nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from keytoll.envoy.bootstrap import BootstrapInvalid, Place, bootstrap, tls_secret

TEXT = (Path(__file__).parents[2] / "envoy.yaml").read_text(encoding="utf-8")


def listeners(text: str) -> dict[str, Any]:
    return {each["name"]: each for each in json.loads(text)["static_resources"]["listeners"]}


def test_without_a_wish_it_is_the_file() -> None:
    assert json.loads(bootstrap(TEXT, Place())) == YAML(typ="safe", pure=True).load(TEXT)


def test_address_ports_hops_and_certificate_are_those_of_the_place() -> None:
    place = Place(address="0.0.0.0", ports={"data": 443}, trusted_hops=2, tls_dir=Path("/tls"))
    made = listeners(bootstrap(TEXT, place))
    assert {name: each["address"]["socket_address"] for name, each in made.items()} == {
        "data": {"address": "0.0.0.0", "port_value": 443},
        "management": {"address": "0.0.0.0", "port_value": 8081},
    }
    for listener in made.values():
        (chain,) = listener["filter_chains"]
        assert chain["filters"][-1]["typed_config"]["xff_num_trusted_hops"] == 2
        assert chain["transport_socket"]["name"] == "envoy.transport_sockets.tls"
    (secret,) = json.loads(tls_secret(Path("/tls")))["resources"]
    assert secret["tls_certificate"]["private_key"] == {"filename": "/tls/tls.key"}


def test_a_listener_of_ones_own_stays_as_it_is() -> None:
    """It may trust no proxy, or have no TLS, or listen on a pipe."""
    parsed = YAML(typ="safe", pure=True).load(TEXT)
    own = {"name": "own", "address": {"pipe": {"path": "own.sock"}}, "filter_chains": []}
    parsed["static_resources"]["listeners"].append(own)
    place = Place(address="0.0.0.0", trusted_hops=2, tls_dir=Path("/tls"))
    assert listeners(bootstrap(json.dumps(parsed), place))["own"] == own


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("a: [", Place(), "not YAML: "),
        ("a: 1", Place(), "its static listeners are not as in Keytoll's envoy.yaml: "),
        ("[]", Place(), "its static listeners are not as in Keytoll's envoy.yaml: "),
        (TEXT.replace("name: management", "name: people"), Place(), "KeyError.'management'"),
    ],
)
def test_another_file_is_refused_with_the_reason(text: str, place: Place, said: str) -> None:
    with pytest.raises(BootstrapInvalid, match=said):
        bootstrap(text, place)
