{{/* Names, labels, sizes: what every template shares. */}}

{{- define "stratacache.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* At most 40 characters and a letter first: room for suffixes within a Service's 63, a StatefulSet's 52, a RayCluster's 47. */}}
{{- define "stratacache.fullname" -}}
{{- $name := include "stratacache.name" . }}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- $full = default $full .Values.fullnameOverride | replace "." "-" }}
{{- $full = ternary (printf "s%s" $full) $full (regexMatch "^[0-9]" $full) }}
{{- $full | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "stratacache.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "stratacache.selector" -}}
app.kubernetes.io/name: {{ include "stratacache.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "stratacache.labels" -}}
helm.sh/chart: {{ include "stratacache.chart" .root }}
{{ include "stratacache.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: stratacache
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels that only the pods with shards have. KubeRay sets app.kubernetes.io/name on its pods itself. */}}
{{- define "stratacache.shardSelector" -}}
{{- if eq .Values.mode "existing" }}
{{- toYaml .Values.existing.podSelector }}
{{- else if eq .Values.mode "kuberay" -}}
ray.io/cluster: {{ include "stratacache.fullname" . }}
ray.io/group: shards
{{- else }}
{{- include "stratacache.selector" (dict "root" . "component" "worker") }}
{{- end }}
{{- end }}

{{- define "stratacache.headSelector" -}}
{{- if eq .Values.mode "kuberay" -}}
ray.io/cluster: {{ include "stratacache.fullname" . }}
ray.io/node-type: head
{{- else }}
{{- include "stratacache.selector" (dict "root" . "component" "head") }}
{{- end }}
{{- end }}

{{- define "stratacache.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "stratacache.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "stratacache.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "stratacache.tokenSecret" -}}
{{- default (include "stratacache.fullname" .) .Values.auth.existingSecret }}
{{- end }}

{{- define "stratacache.tokenKey" -}}
{{- ternary .Values.auth.existingSecretKey "token" (ne .Values.auth.existingSecret "") }}
{{- end }}

{{- define "stratacache.raySecret" -}}
{{- default (include "stratacache.fullname" .) .Values.ray.auth.existingSecret }}
{{- end }}

{{/* The head's own name in the network; KubeRay names its Service itself. */}}
{{- define "stratacache.headHost" -}}
{{- include "stratacache.fullname" . }}-head{{ if eq .Values.mode "kuberay" }}-svc{{ end }}
{{- end }}

{{/* Where the controller finds Ray. It is no Ray node, so it comes in as a Ray Client. */}}
{{- define "stratacache.rayAddress" -}}
{{- if eq .Values.mode "existing" -}}
{{ .Values.existing.address }}
{{- else -}}
ray://{{ include "stratacache.headHost" . }}:10001
{{- end }}
{{- end }}

{{/* A quantity as bytes. */}}
{{- define "stratacache.bytes" -}}
{{- if or (kindIs "float64" .) (kindIs "int64" .) (kindIs "int" .) }}
{{- int64 . }}
{{- else }}
{{- $unit := regexFind "[A-Za-z]*$" . }}
{{- $factors := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- mulf (float64 (trimSuffix $unit .)) (get $factors $unit) | int64 }}
{{- end }}
{{- end }}

{{/* What one shard needs in memory: its levels, 128 MiB for its process, and what waits for its disk (64 MiB) and for
     other copies (128 MiB). The same as ClusterConfig.memory_bytes. */}}
{{- define "stratacache.shardBytes" -}}
{{- $disk := ternary 67108864 0 (ne (include "stratacache.dataDir" .) "") }}
{{- $copies := ternary 134217728 0 (gt (int64 .Values.cache.replicas) 1) }}
{{- add (include "stratacache.bytes" .Values.cache.l1BytesMax) (include "stratacache.bytes" .Values.cache.l2BytesMax) 134217728 $disk $copies }}
{{- end }}

{{/* What Ray itself takes on a node beside its object store: raylet and agents, and room for the coordinator. */}}
{{- define "stratacache.rayOverheadBytes" -}}536870912{{- end }}
{{- define "stratacache.coordinatorBytes" -}}67108864{{- end }}

{{- define "stratacache.workerReplicas" -}}
{{- if kindIs "invalid" .Values.worker.replicas }}
{{- div (sub (add (int64 .Values.cache.shards) (int64 .Values.worker.shardsPerPod)) 1) (int64 .Values.worker.shardsPerPod) }}
{{- else }}
{{- int64 .Values.worker.replicas }}
{{- end }}
{{- end }}

{{/* The directory of the disk level on the pods that hold shards; empty: none. */}}
{{- define "stratacache.dataDir" -}}
{{- if ne (include "stratacache.bytes" .Values.cache.l3BytesMax) "0" }}
{{- ternary .Values.existing.dataDir "/data" (eq .Values.mode "existing") }}
{{- end }}
{{- end }}

{{- define "stratacache.nodeResource" -}}
{{- ternary .Values.existing.nodeResource "stratacache" (eq .Values.mode "existing") }}
{{- end }}

{{/* How many ports from service.port's target on a pod may use. */}}
{{- define "stratacache.portSpan" -}}
{{- ternary (int64 .Values.cache.shards) (int64 .Values.worker.shardsPerPod) (eq .Values.mode "existing") }}
{{- end }}

{{- define "stratacache.reconnectTimeout" -}}
{{- $default := ternary 60 600 (eq .Values.ray.gcs.faultTolerance "none") }}
{{- if kindIs "invalid" .Values.ray.gcs.reconnectTimeoutSeconds }}{{ $default }}{{ else }}{{ int64 .Values.ray.gcs.reconnectTimeoutSeconds }}{{ end }}
{{- end }}
