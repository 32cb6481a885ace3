"""Runs the pods of a rendered release as processes of this machine, as a kubelet would.

Commands, arguments, variables and probes are taken from the manifests as they stand. What is mapped is only what a
network and a mount namespace would give: each pod has a loopback address of its own, the names of Services lead to
them, ports that Ray binds on all addresses are replaced by free ones, and volumes are directories of this run.

Invariants: a container that ends is started again, as restartPolicy Always says; `close` leaves no process behind.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.waiting import is_alive
from tests.helm.objects import Object, PodTemplate, pods

# Bound on every address of the machine, so they must be free here: Ray's control store, dashboard, client, metrics.
WILDCARD_PORTS = ("6379", "8265", "10001", "8080", "52365")
# Not where Ray's workers (10002 to 19999) or the kernel (from 32768) take theirs.
PORTS = itertools.chain(range(20_000 + os.getpid() % 10_000, 32_000), range(20_000, 32_000))


def until(what: str, condition: Callable[[], Any], deadline_s: float, detail: Callable[[], str] = str) -> Any:
    """Wait until the condition holds; fails with what was waited for."""
    end = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < end, f"{what} did not come within {deadline_s:g} s\n{detail()}"
        time.sleep(0.1)
    return value


def free_port() -> int:
    for port in PORTS:
        with socket.socket() as one, suppress(OSError):
            one.bind(("", port))
            return port
    raise AssertionError("no port is free")


@dataclass
class Pod:
    """One pod: its template, name and address, and the process of its only container."""

    template: PodTemplate
    name: str
    address: str
    ports: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    stopped: bool = False
    started: bool = False
    failures: int = 0
    probed_s: float = 0.0

    def sessions(self) -> Iterator[int]:
        """The processes of this container that live."""
        if self.process is None:
            return
        for path in Path("/proc").iterdir():
            if path.name.isdigit():
                with suppress(ProcessLookupError, PermissionError):
                    if os.getsid(int(path.name)) == self.process.pid and is_alive(int(path.name)):
                        yield int(path.name)

    def kill(self) -> None:
        """End every process of the container at once, as when its machine is lost."""
        for _ in range(100):
            living = list(self.sessions())
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not living:
                break
            time.sleep(0.02)
        if self.process is not None:
            self.process.wait(20)


class Kubelet:
    """Runs a release below `folder`; the last part of its addresses is chosen from this process's id.

    The periods of liveness probes pass `haste` times as fast.
    """

    def __init__(self, manifests: list[Object], folder: Path, haste: float = 10) -> None:
        self.manifests = manifests
        self.haste = haste
        self.folder = folder
        self.secrets = {
            one["metadata"]["name"]: {key: base64.b64decode(value).decode() for key, value in one["data"].items()}
            for one in manifests
            if one["kind"] == "Secret"
        }
        self.shared = {port: str(free_port()) for port in WILDCARD_PORTS[:3]}
        self.net = f"127.{1 + os.getpid() % 250}.{1 + os.getpid() // 250 % 250}"
        self.pods: dict[str, Pod] = {}
        for template in pods(manifests):
            for index in range(template.replicas if template.kind != "Pod" else 0):
                self._add(template, index)
        self._write_volumes()

    def _add(self, template: PodTemplate, index: int) -> None:
        name = f"{template.owner.split('/', 1)[1]}-{index}"
        ports = {**self.shared, "8080": str(free_port()), "52365": str(free_port())}
        self.pods[name] = Pod(template, name, f"{self.net}.{len(self.pods) + 10}", ports)

    def _write_volumes(self) -> None:
        for name in ("data", "gcs", "home", "tmp", "etc", "tls"):
            (self.folder / name).mkdir()
        for one in self.manifests:
            if one["kind"] == "ConfigMap":
                config = json.loads(one["data"]["cluster.json"])
                for key in config.keys() & {"data_dir", "tls_certificate", "tls_key", "tls_ca"}:
                    config[key] = self._local(config[key])
                (self.folder / "etc" / "cluster.json").write_text(json.dumps(config))

    # -------------------------------------------------------------- what a pod sees

    def _local(self, text: str) -> str:
        """Paths of volumes as directories of this run."""
        for inside, outside in (("/etc/stratacache", "etc"), ("/data", "data"), ("/gcs", "gcs"), ("/tls", "tls")):
            text = re.sub(rf"(?<![\w/]){inside}(?=/|\b)", str(self.folder / outside), text)
        return text

    def resolve(self, text: str, pod: Pod) -> str:
        """Names of Services and ports as this machine has them."""
        for one in self.manifests:
            if one["kind"] == "Service":
                name = one["metadata"]["name"]
                text = re.sub(rf"(?<![\w-]){name}(?![\w-])", self.address_of(one), text)
        text = self._local(text)
        return re.sub(rf"(?<![\w.])({'|'.join(WILDCARD_PORTS)})(?![\w.])", lambda match: pod.ports[match[1]], text)

    def address_of(self, service: Object) -> str:
        """The address of the first pod that a Service finds."""
        selector = service["spec"]["selector"]
        found = [pod.address for pod in self.pods.values() if selector.items() <= pod.template.labels.items()]
        return found[0] if found else "127.0.0.1"

    def environment(self, pod: Pod, container: Object) -> dict[str, str]:
        """The container's variables, from values, fields and Secrets."""
        out = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RAY_TMPDIR": str(self.folder)}
        out["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
        for one in container.get("env", []):
            source = one.get("valueFrom", {})
            if "fieldRef" in source:
                fields = {"status.podIP": pod.address, "metadata.name": pod.name}
                out[one["name"]] = fields[source["fieldRef"]["fieldPath"]]
            elif "secretKeyRef" in source:
                out[one["name"]] = self.secrets[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
            else:
                out[one["name"]] = self.resolve(one["value"], pod)
        out |= {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp")}
        return out

    def command(self, pod: Pod, words: list[str], environment: dict[str, str]) -> list[str]:
        """The words of a command, with $(VAR) expanded as Kubernetes does."""
        expanded = [re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], word) for word in words]
        return [self.resolve(word, pod) for word in expanded]

    # -------------------------------------------------------------- running

    def start(self, name: str) -> None:
        """Start the container of a pod; its output goes to a log of the run."""
        pod = self.pods[name]
        container = pod.template.container()
        environment = self.environment(pod, container)
        words = self.command(pod, [*container["command"], *container.get("args", [])], environment)
        pod.starts += 1
        pod.stopped = pod.started = False
        pod.failures = 0
        with (self.folder / f"{name}.log").open("ab") as log:
            pod.process = subprocess.Popen(
                words, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )

    def sync(self) -> None:
        """One round of a kubelet: end containers that fail their liveness probe, start again those that have ended."""
        for name, pod in self.pods.items():
            if self._is_dead(name, pod):
                pod.kill()
            if pod.process is not None and pod.process.poll() is not None and not pod.stopped:
                pod.kill()
                # Ray sees the other pods' processes, and would take them for a cluster of this pod that still runs.
                (self.folder / "ray" / "ray_current_cluster").unlink(missing_ok=True)
                self.start(name)

    def _is_dead(self, name: str, pod: Pod) -> bool:
        """Whether the liveness probe has failed as often as it may."""
        spec = pod.template.container()["livenessProbe"]
        if pod.process is None or time.monotonic() - pod.probed_s < spec["periodSeconds"] / self.haste:
            return False
        pod.probed_s = time.monotonic()
        pod.started = pod.started or self.probe(name, "startupProbe")
        alive = not pod.started or self.probe(name, "livenessProbe")
        pod.failures = 0 if alive else pod.failures + 1
        return bool(pod.failures >= spec["failureThreshold"])

    def run(
        self, pod: Pod, words: list[str], *, extra: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a pod, as exec probes, hooks and `kubectl exec` do."""
        environment = {**self.environment(pod, pod.template.container()), **(extra or {})}
        return subprocess.run(
            self.command(pod, words, environment),
            env=environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=90,
        )

    def probe(self, name: str, kind: str) -> bool:
        """Whether a probe of the pod passes now."""
        pod = self.pods[name]
        container = pod.template.container()
        spec = container[kind]
        if "tcpSocket" in spec:
            port = self._port(container, spec["tcpSocket"]["port"], pod)
            with suppress(OSError), socket.create_connection((pod.address, port), timeout=2):
                return True
            return False
        port = self._port(container, spec["httpGet"]["port"], pod)
        return self.http(pod.address, port, spec["httpGet"]["path"])[0] == 200

    def _port(self, container: Object, port: str | int, pod: Pod) -> int:
        number = next((one["containerPort"] for one in container["ports"] if one["name"] == port), port)
        return int(pod.ports.get(str(number), number))

    def http(self, address: str, port: int, path: str) -> tuple[int, str]:
        """Status and body of a GET; 0 when nothing answers."""
        try:
            with urllib.request.urlopen(f"http://{address}:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""

    def logs(self) -> str:
        """The end of every container's log."""
        return "\n".join(f"--- {path.name}\n{path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.log")))

    def close(self) -> None:
        """End every container."""
        for pod in self.pods.values():
            pod.stopped = True
            pod.kill()
