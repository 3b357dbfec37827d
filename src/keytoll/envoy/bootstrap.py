"""Envoy's configuration for one place: envoy.yaml with the addresses, ports, proxies and certificates of that place.

Only Keytoll's own listeners are fitted: in an Envoy that serves other things too, those are for whoever put them there.
What is to be changed is named by its structure, not found in the text, so comments and order in the file don't matter.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

_TYPE = "type.googleapis.com/envoy."
_LISTENERS = ("data", "management")
_SECRET = "listener"  # noqa: S105  # its name
TLS_FILE = "tls.json"
"""In the run folder: tells Envoy where the certificate is, by a file of its own since only then it follows renewals."""


class BootstrapInvalid(ValueError):
    """The file is not a configuration that can be fitted to a place. The message is one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where Envoy runs. `ports` are those of the listeners `data` and `management`; without one it keeps the file's.

    `trusted_hops` is the number of proxies before it that are trusted to name their clients. `tls_dir` holds `tls.crt` and
    `tls.key`; None for plain HTTP.
    """

    address: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=dict)
    trusted_hops: int = 0
    tls_dir: Path | None = None


def bootstrap(text: str, place: Place) -> str:
    """Return the configuration, as JSON, that the text of envoy.yaml gives at a place. Raises BootstrapInvalid."""
    try:
        parsed = YAML(typ="safe", pure=True).load(text)
        listeners = {each["name"]: each for each in parsed["static_resources"]["listeners"]}
        for name in _LISTENERS:
            _fit(listeners[name], place)
    except YAMLError as error:
        raise BootstrapInvalid(f"not YAML: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError, IndexError) as error:
        raise BootstrapInvalid(f"its static listeners are not as in Keytoll's envoy.yaml: {error!r}") from error
    return json.dumps(parsed, indent=1)


def tls_secret(tls_dir: Path) -> str:
    """Return the text of TLS_FILE. Envoy reads the pair anew when something in the folder is renamed, as Kubernetes does."""
    pair = {"certificate_chain": "tls.crt", "private_key": "tls.key"}
    files: dict[str, Any] = {name: {"filename": str(tls_dir / file)} for name, file in pair.items()}
    secret = {
        "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.Secret",
        "name": _SECRET,
        "tls_certificate": files | {"watched_directory": {"path": str(tls_dir)}},
    }
    return json.dumps({"resources": [secret]}, indent=1)


def _fit(listener: dict[str, Any], place: Place) -> None:
    socket = listener["address"]["socket_address"]
    socket["address"] = place.address
    socket["port_value"] = place.ports.get(listener["name"], socket["port_value"])
    for chain in listener["filter_chains"]:
        for manager in _managers(chain):
            manager["xff_num_trusted_hops"] = place.trusted_hops
        if place.tls_dir is not None:
            chain["transport_socket"] = _tls()


def _managers(chain: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    managers = [each["typed_config"] for each in chain["filters"]]
    return (each for each in managers if each["@type"].endswith(".HttpConnectionManager"))


def _tls() -> dict[str, Any]:
    # Envoy watches the folder of the path, and takes none without a slash.
    config = {
        "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [
                {
                    "name": _SECRET,
                    "sds_config": {"path_config_source": {"path": f"./{TLS_FILE}"}, "resource_api_version": "V3"},
                }
            ],
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": config}
