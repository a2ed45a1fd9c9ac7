{{- define "warren.name" -}}warren{{- end -}}

{{/* All objects are named after the chart: one Warren in a namespace, one in a cluster. */}}
{{- define "warren.labels" -}}
app.kubernetes.io/name: warren
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "warren.selector" -}}
app.kubernetes.io/name: warren
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "warren.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "warren.agentSecret" -}}
{{- if eq .Values.certificates.method "existing" -}}
{{ required "certificates.existing.agentSecret: name the secret of the agents' certificate" .Values.certificates.existing.agentSecret }}
{{- else -}}warren-agent-tls{{- end -}}
{{- end -}}

{{- define "warren.hubSecret" -}}
{{- if eq .Values.certificates.method "existing" -}}
{{ required "certificates.existing.hubSecret: name the secret of the hub's certificate" .Values.certificates.existing.hubSecret }}
{{- else -}}warren-hub-tls{{- end -}}
{{- end -}}

{{/*
The certificates of method helm, made once for a rendering and kept in the values: secrets and
APIService must tell of the same. The authority is taken over from the secret of the release
before; leaves are made anew. Both authorities are trusted after a change of generation.
*/}}
{{- define "warren.certificates" -}}
{{- if not (hasKey .Values "_made") -}}
{{- $c := .Values.certificates.helm -}}
{{- $old := (lookup "v1" "Secret" .Release.Namespace "warren-ca") | default dict -}}
{{- $data := (get $old "data") | default dict -}}
{{- $generation := $c.authorityGeneration | default "" -}}
{{- $ca := dict -}}
{{- $bundle := "" -}}
{{- if and (hasKey $data "tls.crt") (eq (get $data "generation" | default "" | b64dec) $generation) -}}
{{- $ca = buildCustomCert (get $data "tls.crt") (get $data "tls.key") -}}
{{- $bundle = $ca.Cert -}}
{{- else -}}
{{- $ca = genCA "warren" (int $c.authorityDays) -}}
{{- $bundle = $ca.Cert -}}
{{- if hasKey $data "tls.crt" -}}
{{- $bundle = printf "%s\n%s" (trim $ca.Cert) (get $data "tls.crt" | b64dec) -}}
{{- end -}}
{{- end -}}
{{- $hubNames := list "hub.warren" "warren-hub" (printf "warren-hub.%s" .Release.Namespace) (printf "warren-hub.%s.svc" .Release.Namespace) (printf "warren-hub.%s.svc.cluster.local" .Release.Namespace) -}}
{{- $agent := genSignedCert "agent.warren" nil (list "agent.warren") (int $c.leafDays) $ca -}}
{{- $hub := genSignedCert "hub.warren" nil $hubNames (int $c.leafDays) $ca -}}
{{- $_ := set .Values "_made" (dict "ca" $ca "bundle" $bundle "agent" $agent "hub" $hub "generation" $generation) -}}
{{- end -}}
{{- end -}}

{{- define "warren.caBundle" -}}
{{- if eq .Values.certificates.method "existing" -}}
{{ required "certificates.existing.caBundle: the authority in PEM, for the API server" .Values.certificates.existing.caBundle | b64enc }}
{{- else -}}
{{- include "warren.certificates" . -}}
{{ .Values._made.bundle | b64enc }}
{{- end -}}
{{- end -}}

{{- define "warren.prometheus" -}}
{{- if .root.Values.metrics.annotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
prometheus.io/path: /metrics
{{- end -}}
{{- end -}}
