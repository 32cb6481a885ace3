{{/* Contradictions between values, each refused with the way out. The schema has checked each value by itself. */}}
{{- define "stratacache.validate" -}}
{{- include "stratacache.validateMode" . }}
{{- include "stratacache.validateSecrets" . }}
{{- include "stratacache.validateLevels" . }}
{{- if ne .Values.mode "existing" }}
{{- include "stratacache.validatePods" . }}
{{- include "stratacache.validateSizes" . }}
{{- end }}
{{- end }}

{{- define "stratacache.validateMode" -}}
{{- $existing := .Values.existing }}
{{- if eq .Values.mode "existing" }}
{{- if not $existing.address }}
{{- fail "existing.address is empty: mode existing needs the Ray Client address of your Ray cluster's head, such as ray://my-ray-head-svc:10001" }}
{{- end }}
{{- if not $existing.podSelector }}
{{- fail "existing.podSelector is empty: give labels of the pods that hold shards, such as ray.io/cluster: my-ray, so that the Services find them" }}
{{- end }}
{{- if ne .Values.ray.gcs.faultTolerance "none" }}
{{- fail (printf "ray.gcs.faultTolerance is %s: in mode existing the chart does not run the head; set it to none here, and set fault tolerance where your Ray cluster is defined" .Values.ray.gcs.faultTolerance) }}
{{- end }}
{{- else if $existing.address }}
{{- fail (printf "existing.address is set, but mode is %s: set mode to existing to join that cluster, or leave existing.address empty" .Values.mode) }}
{{- end }}
{{- if and .Values.kuberay.extraWorkerGroups (ne .Values.mode "kuberay") }}
{{- fail (printf "kuberay.extraWorkerGroups is set, but mode is %s: only mode kuberay has worker groups" .Values.mode) }}
{{- end }}
{{- range .Values.kuberay.extraWorkerGroups }}
{{- if eq .groupName "shards" }}
{{- fail "kuberay.extraWorkerGroups has a group named shards: that is the chart's own group; name yours otherwise" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "stratacache.validateSecrets" -}}
{{- $ray := .Values.ray }}
{{- if and (not .Values.auth.enabled) (ne .Values.service.type "ClusterIP") }}
{{- fail (printf "service.type is %s, but auth.enabled is false: a cache that can be reached from outside needs a token; set auth.enabled to true, or service.type to ClusterIP" .Values.service.type) }}
{{- end }}
{{- if and (not .Values.auth.enabled) .Values.auth.existingSecret }}
{{- fail "auth.existingSecret is set, but auth.enabled is false: set auth.enabled to true, or leave auth.existingSecret empty" }}
{{- end }}
{{- if and .Values.tls.enabled (not .Values.tls.existingSecret) }}
{{- fail "tls.existingSecret is empty: name a Secret with tls.crt, tls.key and ca.crt (cert-manager makes one), or set tls.enabled to false" }}
{{- end }}
{{- if and .Values.tls.existingSecret (not .Values.tls.enabled) }}
{{- fail "tls.existingSecret is set, but tls.enabled is false: set tls.enabled to true, or leave tls.existingSecret empty" }}
{{- end }}
{{- if and (eq .Values.mode "existing") $ray.auth.enabled (not $ray.auth.existingSecret) }}
{{- fail "ray.auth.existingSecret is empty: name the Secret with your Ray cluster's token (key auth_token), or set ray.auth.enabled to false if that cluster has none" }}
{{- end }}
{{- if and (eq $ray.gcs.faultTolerance "redis") (not $ray.gcs.redis.address) }}
{{- fail "ray.gcs.redis.address is empty: ray.gcs.faultTolerance redis needs the host:port of a Redis, or choose rocksdb, which needs only a volume" }}
{{- end }}
{{- if and $ray.gcs.redis.address (ne $ray.gcs.faultTolerance "redis") }}
{{- fail (printf "ray.gcs.redis.address is set, but ray.gcs.faultTolerance is %s: set it to redis, or leave the address empty" $ray.gcs.faultTolerance) }}
{{- end }}
{{- end }}

{{- define "stratacache.validateLevels" -}}
{{- if gt (int64 .Values.cache.replicas) (int64 .Values.cache.shards) }}
{{- fail (printf "cache.replicas is %d, but there are %d shards, and a shard keeps one copy of a key: raise cache.shards, or lower cache.replicas" (int64 .Values.cache.replicas) (int64 .Values.cache.shards)) }}
{{- end }}
{{- range $name := list "l1BytesMax" "l2BytesMax" "l3BytesMax" }}
{{- $bytes := int64 (include "stratacache.bytes" (index $.Values.cache $name)) }}
{{- if and (lt $bytes 1048576) (or (eq $name "l1BytesMax") (gt $bytes 0)) }}
{{- fail (printf "cache.%s is %v: a level needs at least 1Mi%s" $name (index $.Values.cache $name) (ternary "" "; 0 switches it off" (eq $name "l1BytesMax"))) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "stratacache.validatePods" -}}
{{- $shards := int64 .Values.cache.shards }}
{{- $perPod := int64 .Values.worker.shardsPerPod }}
{{- $pods := int64 (include "stratacache.workerReplicas" .) }}
{{- if lt (mul $pods $perPod) $shards }}
{{- fail (printf "worker.replicas is %d, too few pods: %d shards at worker.shardsPerPod %d need %d; raise worker.replicas, leave it null, or raise worker.shardsPerPod" $pods $shards $perPod (div (sub (add $shards $perPod) 1) $perPod)) }}
{{- end }}
{{- if ge (mul (sub $pods 1) $perPod) $shards }}
{{- fail (printf "worker.replicas is %d, but %d shards at worker.shardsPerPod %d leave a pod without a shard, which would never be ready; leave worker.replicas null" $pods $shards $perPod) }}
{{- end }}
{{- if gt (mulf (float64 .Values.cache.cpusPerShard) $perPod) (float64 .Values.worker.numCpus) }}
{{- fail (printf "cache.cpusPerShard is %v: %d shards reserve more than worker.numCpus (%v) offers; raise worker.numCpus, or set cache.cpusPerShard to 0" .Values.cache.cpusPerShard $perPod .Values.worker.numCpus) }}
{{- end }}
{{- if lt (int64 .Values.worker.terminationGracePeriodSeconds) 30 }}
{{- fail (printf "worker.terminationGracePeriodSeconds is %d: a pod needs at least 30 to write out what it holds" (int64 .Values.worker.terminationGracePeriodSeconds)) }}
{{- end }}
{{- end }}

{{- define "stratacache.validateSizes" -}}
{{- $perPod := int64 .Values.worker.shardsPerPod }}
{{- $limit := int64 (include "stratacache.bytes" .Values.worker.resources.limits.memory) }}
{{- $shard := int64 (include "stratacache.shardBytes" .) }}
{{- $store := int64 (include "stratacache.bytes" .Values.worker.objectStoreMemory) }}
{{- $ray := int64 (include "stratacache.rayOverheadBytes" .) }}
{{- $need := add (mul $perPod $shard) $store $ray }}
{{- if gt $need $limit }}
{{- fail (printf "worker.resources.limits.memory is %v, but %d shard(s) a pod need %d MiB (each cache.l1BytesMax + cache.l2BytesMax + 128 MiB, 64 MiB with a disk level and 128 MiB with more than one copy; then worker.objectStoreMemory and 512 MiB for Ray): raise the limit, or lower cache.l1BytesMax or cache.l2BytesMax" .Values.worker.resources.limits.memory $perPod (div (add $need 1048575) 1048576)) }}
{{- end }}
{{- $disk := mul $perPod (int64 (include "stratacache.bytes" .Values.cache.l3BytesMax)) }}
{{- $size := int64 (include "stratacache.bytes" .Values.worker.persistence.size) }}
{{- if and .Values.worker.persistence.enabled (gt $disk $size) }}
{{- fail (printf "worker.persistence.size is %v, but cache.l3BytesMax for %d shard(s) a pod is %d MiB: raise the size, or lower cache.l3BytesMax (0: no disk level)" .Values.worker.persistence.size $perPod (div (add $disk 1048575) 1048576)) }}
{{- end }}
{{- if gt (add (include "stratacache.bytes" .Values.head.objectStoreMemory) $ray) (int64 (include "stratacache.bytes" .Values.head.resources.limits.memory)) }}
{{- fail (printf "head.resources.limits.memory is %v: too little for head.objectStoreMemory and the 512 MiB that Ray takes; raise it" .Values.head.resources.limits.memory) }}
{{- end }}
{{- range $component := list "head" "worker" "controller" }}
{{- $resources := (index $.Values $component).resources }}
{{- $request := dig "requests" "memory" "0" $resources }}
{{- if gt (int64 (include "stratacache.bytes" $request)) (int64 (include "stratacache.bytes" $resources.limits.memory)) }}
{{- fail (printf "%s.resources.requests.memory is %v, above the limit of %v: lower the request or raise the limit" $component $request $resources.limits.memory) }}
{{- end }}
{{- end }}
{{- end }}
