{{/* Parts of pod specs. Each takes (dict "root" $ "spec" .Values.<component> "component" "<component>"). */}}

{{/* Where a pod may run. */}}
{{- define "stratacache.scheduling" -}}
{{- with .spec.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .spec.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- else }}
{{- if eq .component "worker" }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "stratacache.shardSelector" .root | nindent 8 }}
{{- end }}
{{- end }}
{{- with .spec.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* What all pods of the chart have: account, security, images, scheduling. */}}
{{- define "stratacache.podBasics" -}}
serviceAccountName: {{ include "stratacache.serviceAccount" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ int64 .spec.terminationGracePeriodSeconds }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with include "stratacache.scheduling" . | trim }}
{{ . }}
{{- end }}
{{- end }}

{{- define "stratacache.containerBasics" -}}
image: {{ include "stratacache.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
resources:
  {{- toYaml .spec.resources | nindent 2 }}
{{- end }}

{{/* Environment of every process that speaks Ray. The home directory lies where a read-only root lets it be written. */}}
{{- define "stratacache.rayEnv" -}}
- name: HOME
  value: /tmp
- name: RAY_USAGE_STATS_ENABLED
  value: "0"
{{- if .root.Values.ray.auth.enabled }}
- name: RAY_AUTH_MODE
  value: token
- name: RAY_AUTH_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "stratacache.raySecret" .root }}
      key: auth_token
{{- end }}
{{- end }}

{{- define "stratacache.userEnv" -}}
{{- with concat .root.Values.ray.extraEnv .spec.extraEnv }}
{{- toYaml . }}
{{- end }}
{{- end }}

{{- define "stratacache.tokenEnv" -}}
{{- if .Values.auth.enabled }}
- name: STRATACACHE_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "stratacache.tokenSecret" . }}
      key: {{ include "stratacache.tokenKey" . }}
{{- end }}
{{- end }}

{{/* The shards' certificate; a renewed one appears in the files by itself. In mode existing your pods mount it likewise. */}}
{{- define "stratacache.tlsMounts" -}}
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /tls
  readOnly: true
{{- end }}
{{- end }}

{{- define "stratacache.tlsVolumes" -}}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ .Values.tls.existingSecret }}
    defaultMode: 288
{{- end }}
{{- end }}

{{- define "stratacache.tlsName" -}}
{{- .Values.tls.serverName | default (printf "%s.%s.svc" (include "stratacache.fullname" .) .Release.Namespace) }}
{{- end }}

{{/* A Ray node's environment: the head's and the workers', in both modes that run Ray. */}}
{{- define "stratacache.nodeEnv" -}}
{{ include "stratacache.rayEnv" . }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: RAY_gcs_rpc_server_reconnect_timeout_s
  value: {{ include "stratacache.reconnectTimeout" .root | quote }}
{{- end }}

{{/* The head's state, where it survives the head. KubeRay wires Redis itself. */}}
{{- define "stratacache.gcsEnv" -}}
{{- $gcs := .Values.ray.gcs }}
{{- if eq $gcs.faultTolerance "rocksdb" }}
- name: RAY_gcs_storage
  value: rocksdb
- name: RAY_gcs_storage_path
  value: /gcs/state
{{- else if and (eq $gcs.faultTolerance "redis") (eq .Values.mode "standalone") }}
- name: RAY_REDIS_ADDRESS
  value: {{ $gcs.redis.address | quote }}
- name: RAY_external_storage_namespace
  value: {{ printf "%s/%s" .Release.Namespace (include "stratacache.fullname" .) | quote }}
{{- if $gcs.redis.existingSecret }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $gcs.redis.existingSecret }}
      key: {{ $gcs.redis.existingSecretKey }}
{{- end }}
{{- end }}
{{- end }}

{{- define "stratacache.nodeMounts" -}}
- name: tmp
  mountPath: /tmp
- name: shm
  mountPath: /dev/shm
{{- with include "stratacache.tlsMounts" .root | trim }}
{{ . }}
{{- end }}
{{- with .spec.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Ray's session directory, and its object store's shared memory. */}}
{{- define "stratacache.nodeVolumes" -}}
- name: tmp
  emptyDir: {}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ include "stratacache.shmBytes" . | quote }}
{{- with include "stratacache.tlsVolumes" .root | trim }}
{{ . }}
{{- end }}
{{- with .spec.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Ray refuses an object store that fills /dev/shm to the last byte. */}}
{{- define "stratacache.shmBytes" -}}
{{- add (include "stratacache.bytes" .spec.objectStoreMemory) 16777216 }}
{{- end }}

{{/* What Ray may hand out of a pod's memory: the limit without the object store and Ray's own processes. The
coordinator may land on any pod; it must not take the last shard's place. */}}
{{- define "stratacache.rayMemory" -}}
{{- $store := include "stratacache.bytes" .spec.objectStoreMemory }}
{{- $own := sub (include "stratacache.rayOverheadBytes" .) (include "stratacache.coordinatorBytes" .) }}
{{- sub (include "stratacache.bytes" .spec.resources.limits.memory) (add $store $own) }}
{{- end }}

{{- define "stratacache.headPorts" -}}
- {name: gcs, containerPort: 6379, protocol: TCP}
- {name: dashboard, containerPort: 8265, protocol: TCP}
- {name: client, containerPort: 10001, protocol: TCP}
- {name: ray-metrics, containerPort: 8080, protocol: TCP}
{{- end }}

{{/* Further shards of a pod listen on the ports behind the first one's. */}}
{{- define "stratacache.workerPorts" -}}
- {name: resp, containerPort: 6380, protocol: TCP}
{{- range $i := untilStep 1 (int .Values.worker.shardsPerPod) 1 }}
- {name: resp-{{ $i }}, containerPort: {{ add 6380 $i }}, protocol: TCP}
{{- end }}
- {name: ray-metrics, containerPort: 8080, protocol: TCP}
{{- end }}

{{/* Ray's agent answers this without a token, once raylet and (on the head) the control store are well. */}}
{{- define "stratacache.rayHealth" -}}
httpGet:
  path: /api/healthz
  port: 52365
{{- end }}

{{- define "stratacache.headProbes" -}}
startupProbe:
  {{- include "stratacache.rayHealth" . | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  {{- include "stratacache.rayHealth" . | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 12
readinessProbe:
  {{- include "stratacache.rayHealth" . | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 3
{{- end }}

{{/* A worker is alive while its raylet is, and ready while its first shard takes connections. */}}
{{- define "stratacache.workerProbes" -}}
startupProbe:
  {{- include "stratacache.rayHealth" . | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 120
livenessProbe:
  {{- include "stratacache.rayHealth" . | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: {{ add 12 (div (int64 (include "stratacache.reconnectTimeout" .root)) 10) }}
readinessProbe:
  tcpSocket:
    port: resp
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end }}

{{- define "stratacache.drainHook" -}}
lifecycle:
  preStop:
    exec:
      command: [stratacache, drain, --timeout, {{ sub (int64 .spec.terminationGracePeriodSeconds) 15 | quote }}]
{{- end }}

{{/* The spec of a volume claim; takes the values with size, storageClass and accessModes. */}}
{{- define "stratacache.claim" -}}
accessModes:
  {{- toYaml .accessModes | nindent 2 }}
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size | quote }}
{{- end }}
