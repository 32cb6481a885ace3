"""What Kubernetes' schemas accept and a cluster then refuses, or runs wrongly.

Each check takes the objects of a release and yields one line for each fault. `ALL` is the list of them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator

from tests.helm.objects import WORKLOADS, Object, find, pods, ports, probes, quantity, selects, walk

LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?")
LABEL_KEY = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
DNS_1035 = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
DNS_1123 = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]*[a-z0-9])?")
# A StatefulSet's pods carry a label made of its name and a hash of 10; KubeRay hangs suffixes on a RayCluster's name.
NAME_MAX = {"StatefulSet": 52, "RayCluster": 47, "Service": 63}

Check = Callable[[list[Object]], Iterator[str]]


def names(manifests: list[Object]) -> Iterator[str]:
    """Names are unique, legal and short enough for what is made of them; every object names its namespace."""
    seen = Counter((one["kind"], one["metadata"]["name"]) for one in manifests)
    yield from (f"{kind}/{name} stands {count} times" for (kind, name), count in seen.items() if count > 1)
    for one in manifests:
        kind, name = one["kind"], one["metadata"]["name"]
        if len(name) > NAME_MAX.get(kind, 253):
            yield f"{kind}/{name}: the name is longer than {NAME_MAX[kind]}"
        strict = kind in ("Service", "RayCluster")
        if not (DNS_1035 if strict else DNS_1123).fullmatch(name):
            yield f"{kind}/{name}: not a legal name"
        if "namespace" not in one["metadata"]:
            yield f"{kind}/{name}: no namespace"


def labels(manifests: list[Object]) -> Iterator[str]:
    """Labels and label selectors are legal."""
    for one in manifests:
        for path, value in walk(one):
            if not path.endswith((".labels", ".matchLabels")) and path != ".spec.selector":
                continue
            if not isinstance(value, dict) or "matchLabels" in value:
                continue
            for key, text in value.items():
                if not LABEL_KEY.fullmatch(key) or len(str(text)) > 63 or not LABEL_VALUE.fullmatch(str(text)):
                    yield f"{one['kind']}/{one['metadata']['name']}{path}: {key}={text!r} is no label"


def container_ports(manifests: list[Object]) -> Iterator[str]:
    """Port names are at most 15 characters and unique in the pod; each port says its protocol."""
    for pod in pods(manifests):
        listed = [port for container in pod.containers() for port in container.get("ports", [])]
        for what in ("name", "containerPort"):
            counts = Counter(port[what] for port in listed if what in port)
            yield from (f"{pod.owner}: port {key} stands twice" for key, count in counts.items() if count > 1)
        for port in listed:
            if "protocol" not in port:
                yield f"{pod.owner}: port {port} says no protocol"
            name = port.get("name", "a")
            if len(name) > 15 or not PORT_NAME.fullmatch(name):
                yield f"{pod.owner}: {name} is no port name"
        for container in pod.containers():
            for probe, spec in probes(container):
                for action in ("httpGet", "tcpSocket"):
                    port = spec.get(action, {}).get("port")
                    if isinstance(port, str) and port not in ports(container):
                        yield f"{pod.owner}: {probe} asks port {port}, which the container has not"


def services(manifests: list[Object]) -> Iterator[str]:
    """A Service finds pods, and each of its ports one of theirs; a StatefulSet's Service exists."""
    external = {one["metadata"]["name"] for one in manifests if is_external(one, manifests)}
    listed = [one for one in manifests if one["kind"] == "Service"]
    for one in listed:
        name, spec = one["metadata"]["name"], one["spec"]
        yield from (f"Service/{name}: port {p} says no protocol" for p in spec["ports"] if "protocol" not in p)
        if len({port["name"] for port in spec["ports"]}) < len(spec["ports"]):
            yield f"Service/{name}: a port name stands twice"
        if name in external:
            continue
        found = [pod for pod in pods(manifests) if selects(spec["selector"], pod.labels)]
        if not found:
            yield f"Service/{name}: its selector finds no pod"
        for pod in found:
            have = {**ports(pod.container()), **{str(p): p for p in ports(pod.container()).values()}}
            for port in spec["ports"]:
                if str(port["targetPort"]) not in have:
                    yield f"Service/{name}: {pod.owner} has no port {port['targetPort']}"
    known = {one["metadata"]["name"] for one in listed}
    for one in manifests:
        if one["kind"] == "StatefulSet" and one["spec"]["serviceName"] not in known:
            yield f"StatefulSet/{one['metadata']['name']}: no Service {one['spec']['serviceName']}"


def is_external(service: Object, manifests: list[Object]) -> bool:
    """Whether the Service is meant for pods of another release: the cache's, where the release runs no Ray node."""
    component = service["metadata"]["labels"]["app.kubernetes.io/component"]
    runs_ray = any(one["kind"] in ("StatefulSet", "RayCluster") for one in manifests)
    return service["kind"] == "Service" and component.startswith("cache") and not runs_ray


def selectors(manifests: list[Object]) -> Iterator[str]:
    """Workloads select their own pods and nobody else's; budgets and policies select some pod."""
    for one in manifests:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] in WORKLOADS:
            selector = spec["selector"]["matchLabels"]
            chosen = [pod.owner for pod in pods(manifests) if selects(selector, pod.labels)]
            if chosen != [name]:
                yield f"{name}: its selector finds {chosen}"
        elif one["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            key = "selector" if one["kind"] == "PodDisruptionBudget" else "podSelector"
            if not any(selects(spec[key]["matchLabels"], pod.labels) for pod in pods(manifests)):
                yield f"{name}: its selector finds no pod"
        elif one["kind"] == "ServiceMonitor":
            found = [
                o
                for o in manifests
                if o["kind"] == "Service" and selects(spec["selector"]["matchLabels"], o["metadata"]["labels"])
            ]
            for endpoint in spec["endpoints"]:
                if not any(endpoint["port"] == port["name"] for o in found for port in o["spec"]["ports"]):
                    yield f"{name}: no Service has the port {endpoint['port']}"


def volumes(manifests: list[Object]) -> Iterator[str]:
    """Every mount has its volume, every volume a mount, and no path is mounted twice."""
    for pod in pods(manifests):
        have = [volume["name"] for volume in pod.spec.get("volumes", [])] + list(pod.claims)
        yield from (f"{pod.owner}: volume {name} stands twice" for name, n in Counter(have).items() if n > 1)
        used = set()
        for container in pod.containers():
            mounts = container.get("volumeMounts", [])
            used |= {mount["name"] for mount in mounts}
            paths = Counter(mount["mountPath"] for mount in mounts)
            yield from (f"{pod.owner}: {path} is mounted twice" for path, n in paths.items() if n > 1)
        yield from (f"{pod.owner}: no volume {name} for the mount" for name in used - set(have))
        yield from (f"{pod.owner}: volume {name} is never mounted" for name in set(have) - used)


def references(manifests: list[Object]) -> Iterator[str]:
    """ConfigMaps, claims, accounts and Secret keys of the release's own exist; no variable is set twice."""
    have = {(one["kind"], one["metadata"]["name"]): one for one in manifests}
    own = {name for _, name in have}
    for pod in pods(manifests):
        account = pod.spec.get("serviceAccountName", "default")
        if account != "default" and ("ServiceAccount", account) not in have:
            yield f"{pod.owner}: no ServiceAccount {account}"
        for volume in pod.spec.get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and ("PersistentVolumeClaim", claim) not in have:
                yield f"{pod.owner}: no claim {claim}"
            config = volume.get("configMap", {}).get("name")
            if config in own and ("ConfigMap", config) not in have:
                yield f"{pod.owner}: no ConfigMap {config}"
        for container in pod.containers():
            variables = container.get("env", [])
            counts = Counter(variable["name"] for variable in variables)
            yield from (f"{pod.owner}: variable {name} stands twice" for name, n in counts.items() if n > 1)
            for variable in variables:
                secret = variable.get("valueFrom", {}).get("secretKeyRef")
                if secret and secret["name"] in own:
                    data = have.get(("Secret", secret["name"]), {}).get("data", {})
                    if secret["key"] not in data:
                        yield f"{pod.owner}: Secret {secret['name']} has no key {secret['key']}"


def quantities(manifests: list[Object]) -> Iterator[str]:
    """Quantities can be read, and no request is above its limit."""
    for one in manifests:
        for path, value in walk(one):
            if path.endswith((".requests", ".limits", ".sizeLimit")):
                for amount in value.values() if isinstance(value, dict) else [value]:
                    try:
                        quantity(amount)
                    except ValueError as error:
                        yield f"{one['kind']}/{one['metadata']['name']}{path}: {error}"
            if path.endswith(".resources") and isinstance(value, dict) and "limits" in value:
                for what, limit in value["limits"].items():
                    request = value.get("requests", {}).get(what, limit)
                    if quantity(request) > quantity(limit):
                        yield f"{one['kind']}/{one['metadata']['name']}{path}: {what} {request} is above {limit}"


def hardened(manifests: list[Object]) -> Iterator[str]:
    """Pods of ours run as nobody, on a read-only root with a writable /tmp, without a token for the Kubernetes API."""
    for pod in pods(manifests):
        if pod.kind == "RayCluster" and not pod.labels.get("app.kubernetes.io/instance"):
            continue  # a group of the user's
        context = pod.spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{pod.owner}: may run as root"
        if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.owner}: no seccomp profile"
        if pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.owner}: gets a token for the Kubernetes API"
        for container in pod.containers():
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{pod.owner}: keeps privileges"
            if not own.get("readOnlyRootFilesystem"):
                yield f"{pod.owner}: its root can be written"
            if "/tmp" not in {mount["mountPath"] for mount in container.get("volumeMounts", [])}:
                yield f"{pod.owner}: nothing is mounted at /tmp"
            if not container.get("resources", {}).get("limits", {}).get("memory"):
                yield f"{pod.owner}: no memory limit"
            image = container["image"]
            if image.endswith(":latest") or not re.search(r":[^/]+$", image):
                yield f"{pod.owner}: {image} is not a fixed version"


def disruption(manifests: list[Object]) -> Iterator[str]:
    """A budget lets a pod go; a RayCluster has no scale subresource, so its pods need an integer minAvailable."""
    for one in (o for o in manifests if o["kind"] == "PodDisruptionBudget"):
        name, spec = f"PodDisruptionBudget/{one['metadata']['name']}", one["spec"]
        covered = [pod for pod in pods(manifests) if selects(spec["selector"]["matchLabels"], pod.labels)]
        count = sum(pod.replicas for pod in covered)
        if any(pod.kind == "RayCluster" for pod in covered) and not isinstance(spec.get("minAvailable"), int):
            yield f"{name}: pods of a RayCluster need an integer minAvailable"
        if spec.get("minAvailable", 0) >= count or spec.get("maxUnavailable", 1) == 0:
            yield f"{name}: no pod may ever go"


def shutdown(manifests: list[Object]) -> Iterator[str]:
    """A pod with shards drains before it goes, and its drain ends before the kubelet's patience does."""
    for pod in pods(manifests):
        if pod.labels.get("app.kubernetes.io/component") != "worker":
            continue
        command = pod.container().get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", [])
        if command[:2] != ["stratacache", "drain"]:
            yield f"{pod.owner}: it does not drain"
        elif int(command[command.index("--timeout") + 1]) > pod.spec["terminationGracePeriodSeconds"] - 10:
            yield f"{pod.owner}: its drain may be cut off"


def memory(manifests: list[Object]) -> Iterator[str]:
    """What the shards of a pod and Ray may take fits the pod's limit, and /dev/shm holds the object store."""
    config = json.loads(find(manifests, "ConfigMap", controller_config(manifests))["data"]["cluster.json"])
    for pod in pods(manifests):
        if pod.labels.get("app.kubernetes.io/component") != "worker":
            continue
        shards, store = ray_offers(pod.owner, manifests)
        levels = config["l1_bytes_max"] + config["l2_bytes_max"] + (128 << 20)
        levels += (64 << 20) * bool(config.get("data_dir")) + (128 << 20) * (config["replicas"] > 1)
        limit = quantity(pod.container()["resources"]["limits"]["memory"])
        if shards * levels + store + (512 << 20) > limit:
            yield f"{pod.owner}: {shards} shards and Ray need more than {limit}"
        shm = next(volume for volume in pod.spec["volumes"] if volume["name"] == "shm")["emptyDir"]
        if shm.get("medium") != "Memory" or quantity(shm["sizeLimit"]) <= store:
            yield f"{pod.owner}: /dev/shm is no memory, or smaller than the object store"
        if shards * pod.replicas < config["shards"]:
            yield f"{pod.owner}: {pod.replicas} pods of {shards} have no place for {config['shards']} shards"


def controller_config(manifests: list[Object]) -> str:
    """The name of the ConfigMap that the controller reads."""
    deployment = find(manifests, "Deployment")
    for volume in deployment["spec"]["template"]["spec"]["volumes"]:
        if volume["name"] == "config":
            return str(volume["configMap"]["name"])
    raise AssertionError("the controller mounts no config")


def ray_offers(owner: str, manifests: list[Object]) -> tuple[int, int]:
    """How many shards a worker offers a place, and the bytes of its object store, from what starts Ray there."""
    if owner.startswith("RayCluster/"):
        group = owner.rsplit("/", 1)[1]
        groups = find(manifests, "RayCluster")["spec"]["workerGroupSpecs"]
        parameters = next(one for one in groups if one["groupName"] == group)["rayStartParams"]
        return json.loads(shlex.split(parameters["resources"])[0])["stratacache"], int(
            parameters["object-store-memory"]
        )
    script = next(pod for pod in pods(manifests) if pod.owner == owner).container()["args"][0]
    store = re.search(r"--object-store-memory=(\d+)", script)
    amount = re.search(r'\\"stratacache\\": (\d+)', script)
    assert store, script
    assert amount, script
    return int(amount[1]), int(store[1])


def ray_cluster(manifests: list[Object]) -> Iterator[str]:
    """KubeRay's own rules: parameters are strings, their JSON survives the shell, no autoscaler, tokens everywhere."""
    for one in (o for o in manifests if o["kind"] == "RayCluster"):
        spec = one["spec"]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
            for key, value in group["rayStartParams"].items():
                if not isinstance(value, str):
                    yield f"RayCluster: {key} is no string"
        for group in spec["workerGroupSpecs"]:
            text = group["rayStartParams"].get("resources")
            try:
                if text is not None:
                    json.loads(shlex.split(text)[0])
            except ValueError:
                yield f"RayCluster: resources {text} is no JSON for the shell"
            if group["groupName"] == "shards" and group["minReplicas"] != group["maxReplicas"]:
                yield "RayCluster: the group of the shards could be scaled down"
        if spec.get("enableInTreeAutoscaling") is not False:
            yield "RayCluster: the autoscaler could remove pods with shards"
        tokens = [
            pod for pod in pods(manifests) if pod.kind == "RayCluster" and pod.labels.get("app.kubernetes.io/instance")
        ]
        secured = ["RAY_AUTH_MODE" in {env["name"] for env in pod.container()["env"]} for pod in tokens]
        if ("authOptions" in spec) != all(secured):
            yield "RayCluster: authOptions and the pods' environment differ about the token"


def certificates(manifests: list[Object]) -> Iterator[str]:
    """The files of TLS lie in a Secret, mounted where the configuration looks: in shards, controller and test."""
    config = json.loads(find(manifests, "ConfigMap", controller_config(manifests))["data"]["cluster.json"])
    files = {config[name] for name in ("tls_certificate", "tls_key", "tls_ca") if name in config}
    if files and not config.get("tls_name"):
        yield "ConfigMap: TLS without a name to check"
    for pod in pods(manifests):
        if not pod.labels.get("app.kubernetes.io/instance"):
            continue  # a group of the user's own
        secrets = {one["name"] for one in pod.spec["volumes"] if "secret" in one}
        container = pod.container()
        mounted = {one["mountPath"] for one in container.get("volumeMounts", []) if one["name"] in secrets}
        if {file.rpartition("/")[0] for file in files} - mounted:
            yield f"{pod.owner}: no Secret is mounted where {min(files)} should be"
        address = next((env["value"] for env in container["env"] if env["name"] == "STRATACACHE_ADDRESS"), None)
        if address is not None and address.startswith("stratas://") != bool(files):
            yield f"{pod.owner}: its address {address} does not fit the shards' TLS"


def dangling_network(manifests: list[Object]) -> Iterator[str]:
    """With policies on, every pod of ours that listens has one, and what must be reached can be."""
    policies = [one for one in manifests if one["kind"] == "NetworkPolicy"]
    for pod in pods(manifests):
        if not policies or not pod.container().get("ports") or not pod.labels.get("app.kubernetes.io/instance"):
            continue
        if not any(selects(one["spec"]["podSelector"]["matchLabels"], pod.labels) for one in policies):
            yield f"{pod.owner}: no NetworkPolicy covers it"
    component = "app.kubernetes.io/component"
    for one in policies:
        covered = {
            p.labels.get(component)
            for p in pods(manifests)
            if selects(one["spec"]["podSelector"]["matchLabels"], p.labels)
        }
        for other in pods(manifests):
            if covered & {"head", "worker"} and other.labels.get(component) in ("head", "worker", "controller"):
                peers = [peer for rule in one["spec"]["ingress"] if "ports" not in rule for peer in rule["from"]]
                chosen = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in peers if "podSelector" in peer]
                if not any(selects(labels, other.labels) for labels in chosen if labels):
                    yield f"NetworkPolicy/{one['metadata']['name']}: keeps {other.owner} out of Ray"


ALL: tuple[Check, ...] = (
    names,
    labels,
    container_ports,
    services,
    selectors,
    volumes,
    references,
    quantities,
    hardened,
    disruption,
    shutdown,
    memory,
    ray_cluster,
    certificates,
    dangling_network,
)


def faults(manifests: list[Object]) -> list[str]:
    """All that the checks find."""
    return [f"{check.__name__}: {line}" for check in ALL for line in check(manifests)]
