"""What the checks of dashboard and alert rules share: the metrics that there are, and the queries that use them."""
import json
import os
import re

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
DASHBOARD = os.path.join(ROOT, "deploy/grafana/thermocline.json")
RULES = os.path.join(ROOT, "deploy/prometheus/alerts.yml")
RULES_TEST = os.path.join(ROOT, "deploy/prometheus/alerts_test.yml")
SCRAPE = os.path.join(ROOT, "deploy/prometheus/prometheus.yml")
GUIDE = os.path.join(ROOT, "docs/monitoring.md")
TABLE = os.path.join(ROOT, "docs/metrics.md")  # generated from base/metric_table.h; tests/tidy/docs_check.py keeps it so

# Labels that Prometheus adds, and those of its own series.
TARGET_LABELS = {"instance", "job"}
OUTSIDE_METRICS = {"up"}

SELECTOR = re.compile(r"\b(thermocline_\w+|up\b)(\{[^}]*\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def metric_table():
    """Name of a series -> its labels; a histogram has three names."""
    series = {}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (\w+) \| [^|]* \| ([^|]*) \|", read(TABLE), re.MULTILINE):
        own = set(re.findall(r"`(\w+)`", labels))
        if kind == "histogram":
            series.update({name + "_bucket": own | {"le"}, name + "_sum": own, name + "_count": own})
        else:
            series[name] = own
    return series


def family(series):
    """The metric that a series of a histogram belongs to; others belong to themselves."""
    return re.sub(r"_(bucket|sum|count)$", "", series)


def selectors(expression):
    """(name, braces or nothing) of each series that an expression selects."""
    return [(name, braces or "") for name, braces in SELECTOR.findall(expression)]


def panels():
    """The panels of the dashboard that show something."""
    return [panel for panel in json.loads(read(DASHBOARD))["panels"] if panel["type"] != "row"]


def dashboard_queries():
    """(where, expression, legend) of each query of the dashboard."""
    return [(f"panel '{panel['title']}' {target['refId']}", target["expr"], target["legendFormat"])
            for panel in panels() for target in panel["targets"]]


def alert_blocks():
    """Name of an alert -> the text of its rule."""
    parts = re.split(r"^ *- alert: (\w+)$", read(RULES), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))
