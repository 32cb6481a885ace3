{{/* The Ray node containers, the same in both modes that run Ray; `command` is added where KubeRay does not make it. */}}

{{- define "stratacache.headContainer" -}}
name: ray-head
{{ include "stratacache.containerBasics" . }}
{{- if eq .root.Values.mode "standalone" }}
command: [ray, start]
args:
  - --head
  - --node-ip-address=$(POD_IP)
  - --port=6379
  - --dashboard-host=0.0.0.0
  - --dashboard-port=8265
  - --dashboard-agent-listen-port=52365
  - --ray-client-server-port=10001
  - --metrics-export-port=8080
  - --num-cpus={{ .spec.numCpus }}
  - --object-store-memory={{ include "stratacache.bytes" .spec.objectStoreMemory }}
  - --memory={{ include "stratacache.rayMemory" . }}
  {{- if and (eq .root.Values.ray.gcs.faultTolerance "redis") .root.Values.ray.gcs.redis.existingSecret }}
  - --redis-password=$(REDIS_PASSWORD)
  {{- end }}
  - --disable-usage-stats
  - --block
{{- end }}
env:
  {{- include "stratacache.nodeEnv" . | nindent 2 }}
  {{- with include "stratacache.gcsEnv" .root | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "stratacache.userEnv" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
ports:
  {{- include "stratacache.headPorts" . | nindent 2 }}
{{ include "stratacache.headProbes" . }}
volumeMounts:
  {{- include "stratacache.nodeMounts" . | nindent 2 }}
  {{- if eq .root.Values.ray.gcs.faultTolerance "rocksdb" }}
  - name: gcs
    mountPath: /gcs
  {{- end }}
{{- end }}

{{/* A worker waits for the head, then offers its shards' places and, in standalone, the home that its ordinal gives it. */}}
{{- define "stratacache.workerContainer" -}}
name: ray-worker
{{ include "stratacache.containerBasics" . }}
{{- if eq .root.Values.mode "standalone" }}
command: [/bin/sh, -ec]
args:
  - |
    until ray health-check --address "$RAY_HEAD_ADDRESS" >/dev/null 2>&1; do
      echo "waiting for the Ray head at $RAY_HEAD_ADDRESS"
      sleep 2
    done
    exec ray start --address="$RAY_HEAD_ADDRESS" --node-ip-address="$POD_IP" \
      --dashboard-agent-listen-port=52365 --metrics-export-port=8080 \
      --num-cpus={{ .spec.numCpus }} --object-store-memory={{ include "stratacache.bytes" .spec.objectStoreMemory }} --memory={{ include "stratacache.rayMemory" . }} \
      --resources="{\"stratacache\": {{ int64 .spec.shardsPerPod }}, \"stratacache-home-${POD_NAME##*-}\": 1}" \
      --disable-usage-stats --block
{{- end }}
env:
  {{- include "stratacache.nodeEnv" . | nindent 2 }}
  {{- if eq .root.Values.mode "standalone" }}
  - name: POD_NAME
    valueFrom:
      fieldRef:
        fieldPath: metadata.name
  - name: RAY_HEAD_ADDRESS
    value: {{ include "stratacache.headHost" .root }}:6379
  {{- end }}
  {{- with include "stratacache.userEnv" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
ports:
  {{- include "stratacache.workerPorts" .root | nindent 2 }}
{{ include "stratacache.workerProbes" . }}
{{ include "stratacache.drainHook" . }}
volumeMounts:
  {{- include "stratacache.nodeMounts" . | nindent 2 }}
  {{- if include "stratacache.dataDir" .root }}
  - name: data
    mountPath: /data
  {{- end }}
{{- end }}
