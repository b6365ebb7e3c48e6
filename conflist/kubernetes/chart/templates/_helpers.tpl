{{- define "vxcan.labels" -}}
app.kubernetes.io/name: vxcan
{{- end }}

{{- define "vxcan.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "vxcan.rights" -}}
resources:
  requests: {cpu: 5m, memory: 16Mi}
  limits: {memory: 64Mi}
securityContext:
  runAsUser: 0 # the owner of the node's directories
  runAsGroup: 0
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
  {{- with .Values.seLinuxOptions }}
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "vxcan.dirs" -}}
{{- $dirs := dict
  "kubeadm" (dict "bin" "/opt/cni/bin" "conf" "/etc/cni/net.d")
  "k3s" (dict "bin" "/var/lib/rancher/k3s/data/cni" "conf" "/var/lib/rancher/k3s/agent/etc/cni/net.d")
  "microk8s" (dict "bin" "/var/snap/microk8s/current/opt/cni/bin" "conf" "/var/snap/microk8s/current/args/cni-network") -}}
{{- if not (hasKey $dirs .Values.distribution) }}
{{- fail (printf "distribution %q: want kubeadm, k3s or microk8s" .Values.distribution) }}
{{- end }}
{{- $dir := get $dirs .Values.distribution -}}
- name: bin
  hostPath: {path: {{ $dir.bin }}, type: DirectoryOrCreate}
- name: conf
  hostPath: {path: {{ $dir.conf }}, type: DirectoryOrCreate}
{{- end }}
