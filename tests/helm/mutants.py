"""Deliberate faults in the templates, each of which the checks must catch: `make helm-mutants`.

A mutation that survives means that a check is missing. A mutation whose text is no longer in the templates is an error,
so that the list keeps up with them.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.helm.cases import FILES, VARIATIONS
from tests.helm.schema import problems
from tests.helm.semantics import faults
from tests.helm.tools import CHART, Helm, fetch

KUBE = "1.30"
# The fewest renderings that show every mutation.
SETS = [VARIATIONS[name] for name in ("defaults", "kuberay-rocksdb", "monitored", "many-shards-a-pod", "encrypted")]


@dataclass(frozen=True)
class Mutation:
    """Replace the first `old` in a template by `new`."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation("port name too long", "_pod.tpl", "name: ray-metrics", "name: ray-metrics-export"),
    Mutation("port named twice", "_pod.tpl", "name: dashboard,", "name: gcs,"),
    Mutation("port without protocol", "services.yaml", "      protocol: TCP\n", ""),
    Mutation("Service port that nobody has", "services.yaml", "targetPort: 6380", "targetPort: 6379"),
    Mutation("Service selects nothing", "_helpers.tpl", "ray.io/group: shards", "ray.io/group: shard"),
    Mutation("workload misses its own pods", "controller.yaml", 'include "stratacache.selector" $part', 'include "stratacache.selector" (dict "root" . "component" "worker")'),
    Mutation("mount without volume", "_pod.tpl", "- name: shm\n  mountPath", "- name: shared\n  mountPath"),
    Mutation("volume never mounted", "_node.tpl", "  - name: data\n    mountPath: /data\n", ""),
    Mutation("bad quantity", "_pod.tpl", 'sizeLimit: {{ include "stratacache.shmBytes" . | quote }}', "sizeLimit: 8Gb"),
    Mutation("unknown field", "controller.yaml", "livenessProbe:", "liveness:"),
    Mutation("wrong type", "standalone.yaml", "replicas: 1\n", 'replicas: "1"\n'),
    Mutation("probe asks a port that is not there", "_pod.tpl", "port: resp\n", "port: redis\n"),
    Mutation("Secret key that is not there", "_pod.tpl", "key: auth_token", "key: authtoken"),
    Mutation("variable set twice", "_pod.tpl", "- name: RAY_USAGE_STATS_ENABLED", "- name: HOME"),
    Mutation("name over its limit", "_helpers.tpl", "$full | trunc 40", 'printf "%s-of-the-stratacache-chart-in-this-namespace" $full'),
    Mutation("illegal label", "_helpers.tpl", "app.kubernetes.io/part-of: stratacache", 'app.kubernetes.io/part-of: "the cache"'),
    Mutation("root may write", "controller.yaml", "mountPath: /tmp", "mountPath: /var/tmp"),
    Mutation("token for the Kubernetes API", "_pod.tpl", "automountServiceAccountToken: false", "automountServiceAccountToken: true"),
    Mutation("budget for a RayCluster by maxUnavailable", "poddisruptionbudget.yaml", 'if eq .Values.mode "kuberay"', 'if eq .Values.mode "none"'),
    Mutation("budget lets nobody go", "poddisruptionbudget.yaml", "maxUnavailable: 1", "maxUnavailable: 0"),
    Mutation("drain cut off", "_pod.tpl", "sub (int64 .spec.terminationGracePeriodSeconds) 15", "add (int64 .spec.terminationGracePeriodSeconds) 15"),
    Mutation("no drain", "_node.tpl", '{{ include "stratacache.drainHook" . }}\n', ""),
    Mutation("resources that the shell breaks", "raycluster.yaml", "'\"{\\\"stratacache\\\":", "'{\\\"stratacache\\\":"),
    Mutation("start parameter that is no string", "raycluster.yaml", 'disable-usage-stats: "true"', "disable-usage-stats: true"),
    Mutation("autoscaler on", "raycluster.yaml", "enableInTreeAutoscaling: false", "enableInTreeAutoscaling: true"),
    Mutation("shared memory on disk", "_pod.tpl", "    medium: Memory\n", ""),
    Mutation("policy keeps the workers out", "networkpolicy.yaml", 'list "head" "worker"', 'list "head"'),
    Mutation("claim that nobody made", "raycluster.yaml", "claimName: {{ include \"stratacache.fullname\" . }}-gcs", "claimName: gcs"),
    Mutation("monitor of a port that is not there", "monitoring.yaml", "port: http", "port: metrics"),
    Mutation("too few places for the shards", "_node.tpl", 'stratacache\\": {{ int64 .spec.shardsPerPod }}', 'stratacache\\": 1'),
    Mutation("certificate mounted elsewhere", "_pod.tpl", "mountPath: /tls", "mountPath: /certificates"),
    Mutation("test without TLS", "tests/connection.yaml", 'ternary "stratas" "strata"', 'ternary "strata" "strata"'),
)  # fmt: skip


def complaints(helm: Helm) -> list[str]:
    """What rendering, schemas and checks say about a chart."""
    found = []
    for values, sets in [((path,), ()) for path in FILES] + [((), sets) for sets in SETS]:
        done = helm.template(*values, sets=sets)
        if done.returncode:
            found.append(done.stderr.strip().splitlines()[0])
            continue
        manifests = helm.manifests(*values, sets=sets)
        found += problems(manifests, KUBE)
        try:
            found += faults(manifests)
        except Exception as error:
            found.append(f"the checks could not read it: {error!r}")
        if found:
            break
    return found


def mutate(mutation: Mutation, chart: Path) -> None:
    """Put the fault into a copy of the chart; fails when its text is not there."""
    path = chart / "templates" / mutation.file
    text = path.read_text()
    if mutation.old not in text:
        raise LookupError(f"{mutation.name}: {mutation.old!r} is not in {mutation.file}")
    path.write_text(text.replace(mutation.old, mutation.new, 1))


def main() -> int:
    """Try all; the exit status is 1 when one survives."""
    binary = fetch("helm4")
    sound = complaints(Helm(binary))
    if sound:
        print("the chart itself is not sound:", *sound, sep="\n  ")
        return 1
    survivors = 0
    for mutation in MUTATIONS:
        with tempfile.TemporaryDirectory() as folder:
            chart = Path(folder) / "stratacache"
            shutil.copytree(CHART, chart)
            mutate(mutation, chart)
            found = complaints(Helm(binary, chart=chart))
        survivors += not found
        print(f"{'caught  ' if found else 'SURVIVED'}  {mutation.name}: {found[0][:120] if found else ''}", flush=True)
    print(f"{len(MUTATIONS) - survivors} of {len(MUTATIONS)} mutations were caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
