package cli

import "context"

// hubCommand runs the hub itself, in the foreground.
func hubCommand() *command {
	var o HubOptions
	return &command{
		name:    "hub",
		summary: "Run the hub of a cluster in the foreground",
		about: "The hub finds the agents of a cluster by their headless service, asks them all at once, and puts their answers together: what kubectl warren asks. " +
			"It runs in the cluster, behind the API server, which says who asks; or it is asked with a bearer token. " +
			"Everybody sees the namespaces in which they may get pods.\n\n" +
			"Hub and agents know each other by certificates of one authority. Several hubs can run: none keeps anything.\n\n" +
			"Flags go before the configuration file, the file before the defaults. The chart in deploy/helm/warren sets all of them.",
		examples: []example{
			{"warren hub --tls-dir /etc/warren/tls", "In a pod of the cluster"},
			{"warren hub --tls-dir tls --kubeconfig ~/.kube/config --listen 127.0.0.1:7443 --hubble-listen off", "By hand, outside the cluster"},
		},
		flags: []*option{
			{long: "listen", meta: "ADDR", text: &o.Listen, doc: "address that answers HTTPS (default :7443)"},
			{long: "hubble-listen", meta: "ADDR", text: &o.HubbleListen, doc: "address of Hubble's gRPC, or off (default :4245)"},
			{long: "metrics-listen", meta: "ADDR", text: &o.MetricsListen, doc: "address that answers /metrics, /healthz and /readyz and nothing else, or off (default 127.0.0.1:9117)"},
			{long: "tls-dir", meta: "DIR", text: &o.TLSDir, doc: "directory of tls.crt, tls.key and ca.crt; read again when they change"},
			{long: "namespace", meta: "NAME", text: &o.Namespace, doc: "namespace that the agents run in (default warren)"},
			{long: "agents", meta: "NAME", text: &o.Agents, doc: "headless service that the agents are behind (default warren-agent)"},
			{long: "kubeconfig", meta: "FILE", text: &o.Kubeconfig, doc: "file that says where the API server is (default the pod's service account)"},
			{long: "config", meta: "FILE", text: &o.Config, doc: "configuration, in YAML: the keys are the names of these flags"},
			{long: "log-level", meta: "LEVEL", text: &o.LogLevel, choices: []string{"debug", "info", "warn", "error"}, doc: "least level of what is logged: debug, info, warn or error (default info)"},
		},
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			return env.RunHub(ctx, o)
		},
	}
}
