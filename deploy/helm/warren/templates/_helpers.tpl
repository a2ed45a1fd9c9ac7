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
APIService must tell of the same. Leaves are made anew each time, the authority is taken over from
the secret of the release before. A new one comes in three steps, so that at any moment everybody
trusts those whose files are newer or older by one step: it is trusted (next), it signs and the
former is still trusted, the former is forgotten.
*/}}
{{- define "warren.certificates" -}}
{{- if not (hasKey .Values "_made") -}}
{{- $c := .Values.certificates.helm -}}
{{- $old := (lookup "v1" "Secret" .Release.Namespace "warren-ca") | default dict -}}
{{- $data := (get $old "data") | default dict -}}
{{- $generation := $c.authorityGeneration | default "" -}}
{{- $ca := dict -}}
{{- $next := dict -}}
{{- $trusted := list -}}
{{- if hasKey $data "tls.crt" -}}
{{- $ca = buildCustomCert (get $data "tls.crt") (get $data "tls.key") -}}
{{- if hasKey $data "next.crt" -}}
{{- $trusted = append $trusted (trim $ca.Cert) -}}
{{- $ca = buildCustomCert (get $data "next.crt") (get $data "next.key") -}}
{{- end -}}
{{- if ne (get $data "generation" | default "" | b64dec) $generation -}}
{{- $next = genCA "warren" (int $c.authorityDays) -}}
{{- $trusted = append $trusted (trim $next.Cert) -}}
{{- end -}}
{{- else -}}
{{- $ca = genCA "warren" (int $c.authorityDays) -}}
{{- end -}}
{{- $bundle := printf "%s\n" (join "\n" (prepend $trusted (trim $ca.Cert))) -}}
{{- $hubNames := list "hub.warren" "warren-hub" (printf "warren-hub.%s" .Release.Namespace) (printf "warren-hub.%s.svc" .Release.Namespace) (printf "warren-hub.%s.svc.cluster.local" .Release.Namespace) "hubble-peer.default.hubble-grpc.cilium.io" -}}
{{- $agent := genSignedCert "agent.warren" nil (list "agent.warren") (int $c.leafDays) $ca -}}
{{- $hub := genSignedCert "hub.warren" nil $hubNames (int $c.leafDays) $ca -}}
{{- $hubble := genSignedCert "hubble.warren" nil (list "hubble.warren") (int $c.leafDays) $ca -}}
{{- $_ := set .Values "_made" (dict "ca" $ca "next" $next "bundle" $bundle "agent" $agent "hub" $hub "hubble" $hubble "generation" $generation) -}}
{{- end -}}
{{- end -}}

{{/* How pods are connected: off, routed, vxlan or chained. */}}
{{- define "warren.networkMode" -}}
{{- $mode := .Values.network.mode -}}
{{- $makes := has $mode (list "routed" "vxlan") -}}
{{- if eq $mode "auto" -}}{{ ternary "routed" "chained" .Values.cni }}
{{- else if and .Values.cni (not $makes) -}}{{ fail (printf "network.mode: %s connects no pods, which cni=true asks for" $mode) }}
{{- else if and $makes (not .Values.cni) -}}{{ fail (printf "network.mode: %s is for a cluster without another network: with cni=true" $mode) }}
{{- else -}}{{ $mode }}{{- end -}}
{{- end -}}

{{/* Where the API server is, for those who are there before the cluster's services. */}}
{{- define "warren.apiServer" -}}
{{- with .Values.network.apiServer -}}
- name: KUBERNETES_SERVICE_HOST
  value: {{ regexReplaceAll ":[0-9]+$" . "" | trimPrefix "[" | trimSuffix "]" | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ regexFind "[0-9]+$" . | quote }}
{{- end -}}
{{- end -}}

{{/* Where the rule files are, and whether there are any. */}}
{{- define "warren.rulesDir" -}}/etc/warren/rules.d{{- end -}}
{{- define "warren.hasRules" -}}{{ if or .Values.agent.rules .Values.agent.rulesFrom }}yes{{ end }}{{- end -}}

{{/* The configuration files. Pods are replaced when theirs changes, and only then. */}}
{{- define "warren.agentConfig" -}}
# queues.streams: each stream of a hub's client is a stream of every agent.
{{- $config := dict "queues" (dict "streams" 512) -}}
{{- if include "warren.hasRules" . -}}
{{- $_ := set $config "rules" (dict "path" (include "warren.rulesDir" .)) -}}
{{- end -}}
{{- $mode := include "warren.networkMode" . -}}
{{- if ne $mode "off" -}}
{{- $n := .Values.network -}}
{{- $network := dict "mode" $mode "cni-state" (printf "%s/cni" .Values.agent.stateDir) -}}
{{- if .Values.cni -}}
{{- $_ := merge $network (dict "masquerade" $n.masquerade "vni" (int $n.vni) "port" (int $n.port) "sysctl" "/host/proc/sys" "cni-conf" $n.confDir "cni-bin" $n.binDir) -}}
{{- end -}}
{{- with $n.keepSource -}}{{- $_ := set $network "keep-source" (join "," .) -}}{{- end -}}
{{- with $n.mtu -}}{{- $_ := set $network "mtu" (int .) -}}{{- end -}}
{{- with $n.verdicts -}}{{- $_ := set $network "verdicts" (int .) -}}{{- end -}}
{{- with $n.uplink -}}{{- $_ := set $network "uplink" . -}}{{- end -}}
{{- $_ := set $config "network" $network -}}
{{- end }}
{{ toYaml (mergeOverwrite $config (deepCopy .Values.agent.config)) }}
{{- end -}}

{{/* What agents have to be allowed of pods for the reactions that their configuration has. */}}
{{- define "warren.reactionVerbs" -}}
{{- with .Values.agent.config.reactions -}}
{{- if and .enabled .pods -}}
{{- $verbs := list -}}
{{- range splitList "," .pods -}}
{{- $verbs = append $verbs (get (dict "label" "patch" "delete" "delete") .) -}}
{{- end -}}
{{- join ", " $verbs -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "warren.hubConfig" -}}
{{- $nodes := list -}}
{{- range $key, $value := .Values.agent.nodeSelector -}}
{{- $nodes = append $nodes (printf "%s=%s" $key $value) -}}
{{- end -}}
# The hub knows from the nodes' labels where an agent is missing.
{{ toYaml (mergeOverwrite (dict "nodes" (join "," $nodes)) (deepCopy .Values.hub.config)) }}
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
