"""The values that the tests render: the chart's own complete examples, and variations of each feature."""

from __future__ import annotations

from tests.helm.tools import CHART

FILES = sorted((CHART / "ci").glob("*-values.yaml"))

# name -> --set arguments on top of the defaults
VARIATIONS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "kuberay": ("mode=kuberay",),
    "kuberay-rocksdb": ("mode=kuberay", "ray.gcs.faultTolerance=rocksdb", "ray.gcs.rocksdb.storageClass=fast"),
    "standalone-redis": (
        "ray.gcs.faultTolerance=redis",
        "ray.gcs.redis.address=redis.infra:6379",
        "ray.gcs.redis.existingSecret=redis",
    ),
    "redis-without-password": ("ray.gcs.faultTolerance=redis", "ray.gcs.redis.address=redis.infra:6379"),
    "no-tokens": ("auth.enabled=false", "ray.auth.enabled=false"),
    "no-disk-level": ("cache.l3BytesMax=0",),
    "disk-goes-with-the-pod": ("worker.persistence.enabled=false",),
    "many-shards-a-pod": (
        "cache.shards=7",
        "worker.shardsPerPod=3",
        "worker.resources.limits.memory=4Gi",
        "worker.persistence.size=20Gi",
    ),
    "two-copies": ("cache.shards=4", "cache.replicas=2"),
    "one-shard": ("cache.shards=1",),
    "plain-bytes": ("cache.l1BytesMax=300000000", "cache.l2BytesMax=0", "worker.objectStoreMemory=104857600"),
    "long-names": (f"fullnameOverride={'cache-' * 12}x", "mode=kuberay"),
    "digits-first": ("fullnameOverride=3caches",),
    "no-policy-no-budget": ("networkPolicy.enabled=false", "podDisruptionBudget.enabled=false"),
    "nobody-may-connect": ("networkPolicy.clients=null", "networkPolicy.metrics=null"),
    "own-account": ("serviceAccount.create=false", "serviceAccount.name=default"),
    "node-port": ("service.type=NodePort", "service.port=6379"),
    "own-variables": (
        "ray.extraEnv[0].name=RAY_BACKEND_LOG_LEVEL",
        "ray.extraEnv[0].value=info",
        "worker.extraEnv[0].name=LANG",
        "worker.extraEnv[0].value=C.UTF-8",
    ),
    "encrypted": ("tls.enabled=true", "tls.existingSecret=cache-tls"),
    "encrypted-kuberay": (
        "mode=kuberay",
        "tls.enabled=true",
        "tls.existingSecret=cache-tls",
        "tls.serverName=my.cache",
    ),
    "encrypted-existing": (
        "mode=existing",
        "existing.address=ray://head:10001",
        "existing.podSelector.app=ray",
        "ray.auth.existingSecret=ray-token",
        "tls.enabled=true",
        "tls.existingSecret=cache-tls",
    ),
    "monitored": (
        "metrics.serviceMonitor.enabled=true",
        "metrics.prometheusRule.enabled=true",
        "metrics.dashboard.enabled=true",
    ),
}
