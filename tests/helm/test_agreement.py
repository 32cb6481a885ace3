"""Values, schema, templates and code say the same: fields, bounds, sizes, commands, metrics."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from stratacache.cluster.cli import COMMANDS, cli
from stratacache.cluster.commands.controller import read_config
from stratacache.cluster.config import REPLICAS_MAX, SHARDS_MAX, ClusterConfig
from stratacache.cluster.controller_metrics import NAMES
from stratacache.node.config import NodeConfig
from stratacache.node.errors import UsageError
from stratacache.node.types import EvictionPolicy
from tests.helm.cases import FILES, VARIATIONS
from tests.helm.objects import Object, find, pods
from tests.helm.semantics import controller_config
from tests.helm.tools import CHART, Helm
from tests.observe.naming import asked, exported

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())

# Fields of ClusterConfig that are no values of the chart, and why.
NOT_VALUES = {
    "uid": "made at each start",
    "machine": "found at each start",
    "token": "comes from the Secret",
    "host": "a pod has one address",
    "port": "fixed; the Service's port is a value",
    "port_span": "follows from the shards of a pod",
    "node_resource": "the chart's own pods offer it; a value in mode existing",
    "data_dir": "where the volume is mounted; a value in mode existing",
    "insecure": "follows from auth.enabled",
    "metrics_host": "the controller's page has the figures of every shard",
    "metrics_port": "likewise",
    "tls_certificate": "where tls.existingSecret is mounted",
    "tls_key": "likewise",
    "tls_ca": "likewise",
    "tls_name": "a value of its own, tls.serverName",
    "refresh_ahead": "on; it switches itself off where it does not pay",
    "wake": "likewise",
    "prefetch_tasks": "a budget that Ray's own limits of the pods stand above",
    "prefetch_seconds_a_minute": "likewise",
    "patterns_every_ms": "for demonstrations",
}


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def test_every_field_is_a_value_or_has_its_reason() -> None:
    """A field that is added to ClusterConfig must become a value of the chart, or be listed with its reason."""
    offered = {camel(field.name) for field in fields(ClusterConfig) if field.name not in NOT_VALUES}
    assert offered == set(VALUES["cache"])
    assert offered == set(SCHEMA["properties"]["cache"]["properties"])
    assert set(NOT_VALUES) <= {field.name for field in fields(ClusterConfig)}


def closed_objects(node: Any, path: str = "") -> list[str]:
    """Paths of the schema's objects that have properties but take others too."""
    open_ones = []
    if isinstance(node, dict):
        if "properties" in node and node.get("type") == "object" and node.get("additionalProperties") is not False:
            open_ones.append(path)
        for key, inner in node.items():
            open_ones += closed_objects(inner, f"{path}/{key}")
    return open_ones


def test_the_schema_is_closed() -> None:
    """Nowhere in the values is an unknown key taken for granted."""
    assert closed_objects(SCHEMA) == []


def keys(node: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """Values that the schema does not know, and the other way round."""
    schema = resolved(schema)
    if not isinstance(node, dict) or "properties" not in schema:
        return []
    known = set(schema["properties"]) - ({"global"} if not path else set())
    differing = [f"{path}.{key}" for key in known ^ set(node)]
    for key in known & set(node):
        differing += keys(node[key], schema["properties"][key], f"{path}.{key}")
    return [one for one in differing if not re.search(r"\.resources\.", one)]  # each part of resources is optional


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        definition: dict[str, Any] = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]
        return definition
    return schema


def test_values_and_schema_have_the_same_keys() -> None:
    """Every default has its schema, and every key of the schema its default, so that values.yaml shows all there is."""
    assert keys(VALUES, SCHEMA) == []


def test_the_schemas_bounds_are_the_codes() -> None:
    """Policies, the largest number of shards, the pattern of names: one truth in two files."""
    cache = SCHEMA["properties"]["cache"]["properties"]
    assert set(cache["policy"]["enum"]) == {policy.value for policy in EvictionPolicy}
    assert cache["shards"]["maximum"] == SHARDS_MAX
    assert cache["replicas"]["maximum"] == REPLICAS_MAX
    for name in ("a", "a-b", "-a", "a-", "A", "a" * 47, "a" * 48, "", "a.b"):
        allowed = re.fullmatch(cache["name"]["pattern"].strip("^$"), name) is not None
        assert allowed == accepts(name=name), name


@pytest.mark.parametrize(
    ("value", "field", "edge"),
    [
        ("shards", "shards", 1),
        ("replicas", "replicas", 1),
        ("leaseMs", "lease_ms", 1_000),
        ("startTimeoutMs", "start_timeout_ms", 1_000),
        ("cpusPerShard", "cpus_per_shard", 0),
    ],
)
def test_the_schemas_minima_are_the_codes(value: str, field: str, edge: int) -> None:
    """At the schema's minimum the code accepts; one below, it refuses."""
    assert SCHEMA["properties"]["cache"]["properties"][value]["minimum"] == edge
    assert accepts(**{field: edge})
    assert not accepts(**{field: edge - 1})


def accepts(**changes: Any) -> bool:
    try:
        ClusterConfig(**changes).validate()
    except UsageError:
        return False
    return True


def config_of(manifests: list[Object], tmp_path: Path) -> ClusterConfig:
    """The configuration as the controller reads it from the ConfigMap."""
    path = tmp_path / "cluster.json"
    path.write_text(find(manifests, "ConfigMap", controller_config(manifests))["data"]["cluster.json"])
    secured = any(one["name"] == "STRATACACHE_TOKEN" for one in controller(manifests)["env"])
    return read_config(path, "a-token" if secured else None)


def controller(manifests: list[Object]) -> Object:
    return next(pod for pod in pods(manifests) if pod.kind == "Deployment").container()


@pytest.mark.parametrize("values", FILES, ids=lambda path: path.stem)
def test_the_controller_reads_what_is_rendered(helm4: Helm, values: Path, tmp_path: Path) -> None:
    """The rendered file is a whole, valid configuration, of the cluster and of each shard's node."""
    config = config_of(helm4.manifests(values), tmp_path)
    wanted = yaml.safe_load(values.read_text())["cache"]
    assert config.shards == wanted["shards"]
    node = NodeConfig(
        l1_bytes_max=config.l1_bytes_max,
        l2_bytes_max=config.l2_bytes_max,
        l3_bytes_max=config.l3_bytes_max,
        data_dir=Path(config.data_dir or "/nowhere"),
        policy=EvictionPolicy(config.policy),
    )
    node.validate()
    for name in ("l1BytesMax", "l2BytesMax", "l3BytesMax"):
        digits, unit = re.fullmatch(r"(\d+)(Mi|Gi)", wanted[name]).groups()  # type: ignore[union-attr]
        field = {"l1BytesMax": "l1_bytes_max", "l2BytesMax": "l2_bytes_max", "l3BytesMax": "l3_bytes_max"}[name]
        assert getattr(config, field) == int(digits) << {"Mi": 20, "Gi": 30}[unit]


@pytest.mark.parametrize("name", VARIATIONS)
def test_every_variation_is_a_valid_configuration(helm4: Helm, name: str, tmp_path: Path) -> None:
    """No combination of features renders a file that the controller would refuse."""
    config_of(helm4.manifests(sets=VARIATIONS[name]), tmp_path)


@pytest.mark.parametrize(("disk", "replicas"), [("1Gi", 1), ("1Gi", 2), ("0", 1)])
def test_the_memory_check_is_exact(helm4: Helm, disk: str, replicas: int) -> None:
    """A limit of just what the shards declare to Ray, and Ray itself, is taken; one byte less is not."""
    data_dir = None if disk == "0" else "/data"
    config = ClusterConfig(l1_bytes_max=300 << 20, l2_bytes_max=100 << 20, data_dir=data_dir, replicas=replicas)
    need = 2 * config.memory_bytes() + (100 << 20) + (512 << 20)
    sets = ("cache.l1BytesMax=300Mi", "cache.l2BytesMax=100Mi", "cache.shards=4", "worker.shardsPerPod=2",
            f"cache.l3BytesMax={disk}", f"cache.replicas={replicas}",
            "worker.resources.requests.memory=1Gi")  # fmt: skip
    assert helm4.template(sets=(*sets, f"worker.resources.limits.memory={need}")).returncode == 0
    refused = helm4.template(sets=(*sets, f"worker.resources.limits.memory={need - 1}"))
    assert "worker.resources.limits.memory" in refused.stderr


CALL = re.compile(r"(?:^|\$\(|! |exec |until )((?:ray|stratacache) [^\n)|>]*)", re.MULTILINE)


def commands(manifests: list[Object]) -> list[list[str]]:
    """Every command that a release runs: containers, their hooks, and what their scripts call."""
    found = []
    for pod in pods(manifests):
        for container in pod.containers():
            words = [*container.get("command", []), *container.get("args", [])]
            if words[:2] == ["/bin/sh", "-ec"]:
                calls = re.findall(
                    r"(?:^|\$\(|! |exec |until )((?:ray|stratacache) [^\n)|>]*)", script(words[2]), re.MULTILINE
                )
                found += [call.split() for call in calls]
            elif words:
                found.append(words)
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
            found += [hook] if hook else []
    return found


def script(text: str) -> str:
    """A script with its continued lines joined and its indentation gone."""
    return re.sub(r"^\s+", "", text.replace("\\\n", " "), flags=re.MULTILINE)


def unknown_options(command: click.Command, words: list[str]) -> list[str]:
    """Options in the words of a command line that the command does not have."""
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.split("=")[0] for word in words if word.startswith("--")]
    return [option for option in given if option not in known]


@pytest.mark.parametrize("values", FILES, ids=lambda path: path.stem)
def test_every_command_exists(helm4: Helm, values: Path) -> None:
    """What the pods run, with every option, is there: in our command line, and in Ray's."""
    from ray.scripts.scripts import cli as ray_cli

    called = commands(helm4.manifests(values))
    assert {words[0] for words in called} <= {"ray", "stratacache"}
    assert {tuple(words[:2]) for words in called} >= {("stratacache", "controller"), ("stratacache", "put")}
    for words in called:
        if words[0] == "stratacache":
            assert words[1] in COMMANDS
            command = cli.get_command(click.Context(cli), words[1])
        else:
            command = ray_cli.commands[words[1]]
        assert command is not None, words
        assert unknown_options(command, words) == [], words


def test_standalone_runs_ray_and_drains(helm4: Helm) -> None:
    """The check above sees the commands of head, worker, hook and controller."""
    called = {tuple(words[:2]) for words in commands(helm4.manifests())}
    assert called >= {
        ("ray", "start"),
        ("ray", "health-check"),
        ("stratacache", "drain"),
        ("stratacache", "controller"),
    }


def test_alerts_ask_for_metrics_that_exist(helm4: Helm) -> None:
    """Each alert's expression names metrics of the controller, and only these."""
    rules = find(helm4.manifests(sets=VARIATIONS["monitored"]), "PrometheusRule")["spec"]["groups"][0]["rules"]
    for rule in rules:
        assert asked(rule["expr"]), rule["alert"]
        assert asked(rule["expr"]) <= set(exported(NAMES)), rule["alert"]


def test_the_dashboard_is_rendered_whole(helm4: Helm) -> None:
    """The ConfigMap holds the dashboard that tests/observe/test_dashboard.py checks, Grafana's own braces included."""
    config = find(helm4.manifests(sets=VARIATIONS["monitored"]), "ConfigMap", "release-stratacache-dashboard")
    assert json.loads(config["data"]["stratacache.json"]) == json.loads((CHART / "files/dashboard.json").read_text())


def leaves(node: dict[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """The values with their paths; what is free-form is one value."""
    found = []
    for key, value in node.items():
        name = path + key
        whole = name.endswith((".resources", ".labels")) or "ecurityContext" in name
        if isinstance(value, dict) and value and not whole:
            found += leaves(value, name + ".")
        else:
            found.append((name, "" if "ecurityContext" in name else f"`{json.dumps(value)}`"))
    return found


def test_the_readme_lists_every_value_with_its_default() -> None:
    """The table of helm/README.md has one row for each value, in order, with the default of values.yaml."""
    text = (CHART.parent / "README.md").read_text()
    rows = re.findall(r"^\| `([A-Za-z.0-9]+)` \| .*? \| ?(`.*`)? \|$", text, re.MULTILINE)
    assert rows == leaves(VALUES)
