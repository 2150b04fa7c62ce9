#!/usr/bin/env python3
"""Checks the dashboard and the alert rules by themselves, without a daemon: that Grafana can import the one, that each
panel and alert explains itself, that they name metrics and labels of the table only, and that no metric is left out.
"""
import json
import re
import sys

import monitoring

COLUMNS = 24  # of Grafana's grid
VARIABLES = {"$instance", "$__rate_interval", "$__range"}
ANNOTATIONS = ("summary", "description", "action")
SEVERITIES = ("warning", "critical")
CODES = {"cancelled", "unknown", "invalid_argument", "deadline_exceeded", "not_found", "already_exists", "permission_denied",
         "resource_exhausted", "failed_precondition", "aborted", "out_of_range", "unimplemented", "internal", "unavailable",
         "data_loss", "unauthenticated"}


def check_frame(dashboard):
    for key in ("uid", "title", "schemaVersion", "time", "refresh"):
        if not dashboard.get(key):
            yield f"no {key}"
    if "id" in dashboard or "__inputs" in dashboard:
        yield "an id or __inputs of one Grafana: importing it elsewhere would fail"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    if variables.get("datasource", {}).get("type") != "datasource":
        yield "no variable for the data source"
    if "label_values(thermocline_" not in str(variables.get("instance", {}).get("query")):
        yield "no variable for the instance"


def check_grid(dashboard):
    taken = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if cell[0] >= COLUMNS:
                yield f"'{panel['title']}' is wider than the grid"
                break
            if taken.setdefault(cell, panel["id"]) != panel["id"]:
                yield f"'{panel['title']}' lies on another panel"
                break
    for what in ("id", "title"):
        seen = [panel[what] for panel in dashboard["panels"] if what != "title" or panel["type"] != "row"]
        for twice in {value for value in seen if seen.count(value) > 1}:
            yield f"two panels have the {what} {twice}"


def check_panels():
    for panel in monitoring.panels():
        where = f"'{panel['title']}'"
        if len(panel.get("description", "")) < 20:
            yield f"{where} does not say what it shows"
        if not panel["fieldConfig"]["defaults"].get("unit"):
            yield f"{where} has no unit"
        for holder in [panel, *panel["targets"]]:
            if holder["datasource"].get("uid") != "${datasource}":
                yield f"{where} is bound to one data source"
    for where, expression, legend in monitoring.dashboard_queries():
        if not legend:
            yield f"{where}: no legend"
        unknown = set(re.findall(r"\$\w+|\$\{[^}]*\}", expression)) - VARIABLES
        if unknown:
            yield f"{where}: unknown variables {unknown}"
        for name, braces in monitoring.selectors(expression):
            if 'instance=~"$instance"' not in braces:
                yield f"{where}: {name} is not of the chosen instances"


def check_names(where, expression, table):
    """Metrics and labels that the table does not have."""
    for name, braces in monitoring.selectors(expression):
        if name in monitoring.OUTSIDE_METRICS:
            continue
        if name not in table:
            yield f"{where}: there is no metric {name}"
            continue
        matchers = monitoring.MATCHER.findall(braces)
        wrong = {label for label, _, _ in matchers} - table[name] - monitoring.TARGET_LABELS
        if wrong:
            yield f"{where}: {name} has no label {', '.join(wrong)}"
        # Values of other labels are looked for in a real daemon by monitoring_test.py; it has no errors of each kind.
        for code in {code for label, _, values in matchers if label == "code" for code in values.split("|")} - CODES:
            yield f"{where}: there is no code {code}"
    known = set().union(*table.values()) | monitoring.TARGET_LABELS
    for labels in re.findall(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)", expression):
        wrong = {label.strip() for label in labels.split(",")} - known
        if wrong:
            yield f"{where}: no metric has a label {', '.join(wrong)}"


def check_alerts(table):
    alerts, tests, guide = (monitoring.alert_blocks(), monitoring.read(monitoring.RULES_TEST),
                            monitoring.read(monitoring.GUIDE))
    if not alerts:
        yield "no alert rules"
    for name, text in alerts.items():
        for annotation in ANNOTATIONS:
            if not re.search(rf'^ +{annotation}: ".{{20,}}"$', text, re.MULTILINE):
                yield f"{name} has no {annotation}"
        if not re.search(rf"severity: ({'|'.join(SEVERITIES)})\b", text):
            yield f"{name} has no severity of {', '.join(SEVERITIES)}"
        if not re.search(rf"\b{name}\b", tests):
            yield f"{name} is not in alerts_test.yml"
        if f"`{name}`" not in guide:
            yield f"{name} is not in docs/monitoring.md"
        yield from check_names(name, text.split("annotations:")[0], table)
    for name in set(re.findall(r"`(Thermocline[A-Z]\w+)`", guide)) - set(alerts):
        yield f"docs/monitoring.md explains {name}, which is no alert"


def main():
    table = monitoring.metric_table()
    dashboard = json.loads(monitoring.read(monitoring.DASHBOARD))
    errors = [*check_frame(dashboard), *check_grid(dashboard), *check_panels(), *check_alerts(table)]
    queries = monitoring.dashboard_queries()
    for where, expression, _ in queries:
        errors += check_names(where, expression, table)
    shown = {monitoring.family(name) for _, expression, _ in queries for name, _ in monitoring.selectors(expression)}
    metrics = {monitoring.family(name) for name in table}
    errors += [f"{metric} is on no panel" for metric in sorted(metrics - shown)]
    for error in errors:
        print(error)
    print(f"{len(metrics)} metrics, {len(queries)} queries, {len(monitoring.alert_blocks())} alerts, {len(errors)} errors")
    return 1 if errors or not metrics or not queries else 0


if __name__ == "__main__":
    sys.exit(main())
