"""The queries of the alerts and of the dashboard."""

import json
from pathlib import Path
from typing import Any

from deploy.pod import DEPLOY, manifests

MONITORING = DEPLOY / "monitoring"
_DASHBOARD_VARIABLES = {"$namespace": "keytoll", "$__rate_interval": "1m"}


def rules() -> Any:
    """Return what the Prometheus operator gives to Prometheus."""
    return manifests("monitoring/rules.yaml")[0]["spec"]


def alerts() -> dict[str, Any]:
    """Return the alerts by name."""
    return {rule["alert"]: rule for group in rules()["groups"] for rule in group["rules"]}


def dashboard_queries() -> list[tuple[str, str]]:
    """Return the title of its panel and the query, for each query of the dashboard, its variables filled in."""
    dashboard = json.loads((MONITORING / "keytoll.json").read_text(encoding="utf-8"))
    return [(panel["title"], _filled(target["expr"])) for panel in dashboard["panels"] for target in panel["targets"]]


def _filled(query: str) -> str:
    for variable, value in _DASHBOARD_VARIABLES.items():
        query = query.replace(variable, value)
    return query


def operators_guide() -> str:
    """Return the text of the operator's guide."""
    return (Path(__file__).parents[2] / "docs/operators-guide.md").read_text(encoding="utf-8")
