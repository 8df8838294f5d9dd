{{/* Namespace of the control plane. */}}
{{- define "osm.namespace" -}}
{{ default .Release.Namespace .Values.osm.osmNamespace }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "osm.labels" -}}
app.kubernetes.io/name: openservicemesh.io
app.kubernetes.io/instance: {{ .Values.osm.meshName }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{/* Reference of the image with this key below osm.image.name; the context is a list of the root and the key. */}}
{{- define "osm.image" -}}
{{- $image := (index . 0).Values.osm.image -}}
{{- $key := index . 1 -}}
{{- $digest := index $image.digest $key -}}
{{- if $digest -}}
{{ $image.registry }}/{{ index $image.name $key }}@{{ $digest }}
{{- else -}}
{{ $image.registry }}/{{ index $image.name $key }}:{{ default (index . 0).Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{/* What the sidecars are made of where MeshConfig names no image. */}}
{{- define "osm.sidecarImage" -}}
{{- if .Values.osm.sidecarImage -}}
{{ .Values.osm.sidecarImage }}
{{- else -}}
{{ include "osm.image" (list . "osmSidecar") }}
{{- end -}}
{{- end -}}

{{/* Flags that all three programs take. */}}
{{- define "osm.arguments" -}}
- --verbosity={{ .Values.osm.controllerLogLevel }}
- --osm-namespace={{ include "osm.namespace" . }}
- --mesh-name={{ .Values.osm.meshName }}
- --osm-config-name=osm-mesh-config
- --trust-domain={{ .Values.osm.trustDomain }}
- --ca-bundle-secret-name={{ .Values.osm.caBundleSecretName }}
- --certificate-manager={{ .Values.osm.certificateProvider.kind }}
- --osm-version={{ .Chart.AppVersion }}
- --enable-reconciler={{ .Values.osm.enableReconciler }}
{{- end -}}

{{/* Who the control plane's processes are. */}}
{{- define "osm.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 3000
fsGroup: 2000
supplementalGroups: [5555]
{{- end -}}

{{/* What they may do. */}}
{{- define "osm.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end -}}

{{/* Where a pod of the control plane may run; the context is a list of the root and the component's values. */}}
{{- define "osm.scheduling" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- with $component.nodeSelector }}
nodeSelector:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with $component.affinity }}
affinity:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- if or $component.tolerations $root.Values.osm.controlPlaneTolerations }}
tolerations:
{{- with $component.tolerations }}
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.osm.controlPlaneTolerations }}
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $root.Values.osm.imagePullSecrets }}
imagePullSecrets:
{{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
