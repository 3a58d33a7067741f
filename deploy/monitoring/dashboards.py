"""Writes Grafana's dashboards as JSON from dashboards.yml (`python -m deploy.monitoring.dashboards`, `make pages`).

Source: Grafana's dashboard JSON model, schema version 39.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

_HERE = Path(__file__).parent
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SCHEMA = 39
_PAGE = 24
"""Columns of Grafana's grid."""


def texts() -> dict[Path, str]:
    """Each dashboard's file, and what it should hold."""
    described = yaml.safe_load((_HERE / "dashboards.yml").read_text())
    return {
        _HERE / "grafana" / "dashboards" / f"{name}.json": json.dumps(_dashboard(name, each), indent=1) + "\n"
        for name, each in described.items()
    }


def _dashboard(name: str, described: Mapping[str, Any]) -> dict[str, Any]:
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    ]
    for variable, query in described["variables"].items():
        variables.append(
            {
                "name": variable,
                "label": variable,
                "type": "query",
                "datasource": _SOURCE,
                "query": query,
                "refresh": 2,
                "multi": True,
                "includeAll": True,
                "allValue": ".*",
                "current": {"text": "All", "value": "$__all"},
            }
        )
    return {
        "uid": f"modelsync-{name}",
        "title": described["title"],
        "description": described["about"],
        "tags": ["modelsync"],
        "schemaVersion": _SCHEMA,
        "timezone": "browser",
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": variables},
        "panels": list(_panels(described["panels"])),
    }


def _panels(described: list[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Side by side from the top, in rows as high as their highest panel."""
    x = y = row = 0
    for number, panel in enumerate(described, 1):
        shown: dict[str, Any] = {"kind": "timeseries", "unit": "short", "width": 12, "height": 8, "stacked": False}
        shown |= panel.get("shown", {})
        if x + shown["width"] > _PAGE:
            x, y, row = 0, y + row, 0
        stacked = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 30} if shown["stacked"] else {}
        yield {
            "id": number,
            "type": shown["kind"],
            "title": panel["title"],
            "description": panel.get("about", ""),
            "gridPos": {"x": x, "y": y, "w": shown["width"], "h": shown["height"]},
            "datasource": _SOURCE,
            "targets": [
                {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
                for index, (expression, legend) in enumerate(panel["queries"])
            ],
            "fieldConfig": {"defaults": {"unit": shown["unit"], "custom": stacked}, "overrides": []},
            "options": {},
        }
        x, row = x + shown["width"], max(row, shown["height"])


if __name__ == "__main__":
    for path, text in texts().items():
        path.write_text(text)
