"""The shipped envoy.yaml refuses what it can't have judged."""

from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML

from keytoll.demo.stack import PROJECT

EXT_AUTHZ = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"


def test_every_check_fails_closed_with_503() -> None:
    """User report 31: it isn't left to defaults, which answer 403, nor open by any of Envoy's switches."""
    checks = list(_configured(YAML(typ="safe").load(PROJECT / "envoy.yaml"), EXT_AUTHZ))
    assert len(checks) == 2
    for check in checks:
        assert check["failure_mode_allow"] is False
        assert check["status_on_error"] == {"code": "ServiceUnavailable"}
        assert not _SWITCHES & check.keys()


_SWITCHES = {"failure_mode_allow_header_add", "filter_enabled", "filter_enabled_metadata", "deny_at_disable"}


def _configured(node: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Yield every part of the configuration that is of a type."""
    if isinstance(node, dict):
        if node.get("@type") == kind:
            yield node
        for value in node.values():
            yield from _configured(value, kind)
    elif isinstance(node, list):
        for value in node:
            yield from _configured(value, kind)
