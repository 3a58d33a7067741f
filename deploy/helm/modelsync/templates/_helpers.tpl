{{- define "modelsync.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: ["ALL"] }
runAsNonRoot: true
runAsUser: {{ .Values.user }}
seccompProfile: { type: RuntimeDefault }
{{- end }}
{{- define "modelsync.image" -}}
{{ .root.Values.image.registry }}/{{ .name }}:{{ .root.Values.image.tag }}
{{- end }}
