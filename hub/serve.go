package hub

import (
	"crypto/tls"
	"net/http"
	"strings"

	"warren/api"
)

// apiPath is the hub's path as an aggregated API of the cluster: below it are
// the same paths as below the root.
const apiPath = "/apis/" + apiGroup

const (
	apiTitle       = "Warren hub"
	apiDescription = "What runs in this cluster and who talks to whom. The hub asks the agents of all nodes and merges what they tell, in the order of time. " +
		"It answers by HTTPS below /v1, and by way of the cluster's API server below " + apiPath + "/v1. Lists and streams are NDJSON: one JSON object a line, whose keys are the names of fields. " +
		"Rows of kind nodes say which nodes answered: at the begin of a stream, whenever that changes, and at the end of a list. " +
		"Empty lines, which a stream sends when it has nothing else to say, mean nothing."
)

// routes are all paths that are answered to those who may ask.
func (h *hub) routes() ([]api.Route, error) {
	list := []api.Route{
		h.rowsRoute(api.PathEvents),
		h.rowsRoute(api.PathProcesses),
		{Pattern: "/v1/processes/{id}", Params: []string{"node"}, Handle: h.serveProcess},
		h.rowsRoute(api.PathConnections),
		h.rowsRoute(api.PathFlows),
		{Pattern: "/v1" + api.PathCounts, Params: []string{"filter", "by", "limit", "node", "watch"}, Handle: h.serveCounts},
		{Pattern: "/v1" + api.PathFiles, Params: api.FileParams, Handle: h.serveFile},
		api.WhoRoute(h.cfg.Stall, h.who),
		api.MapRoute(h.drawMap),
		api.PolicyRoute(h.reportPolicy),
		api.PolicyStatusRoute(h.reportPolicyStatus),
		{Pattern: "/v1/fields", Params: []string{"kind"}, Handle: api.ServeFields},
		{Pattern: "/v1/status", Params: []string{"node"}, Handle: h.serveStatus},
	}
	described := append(list, h.probes()...)
	doc, err := api.OpenAPI(apiTitle, apiDescription, described)
	if err != nil {
		return nil, err
	}
	return append(described, api.Route{Pattern: "/openapi.json", Handle: func(w http.ResponseWriter, _ *http.Request, _ api.Query) error {
		return writeBytes(w, doc)
	}}), nil
}

// probes are the paths that say whether the hub is well.
func (h *hub) probes() []api.Route {
	return []api.Route{
		{Pattern: "/healthz", Handle: func(w http.ResponseWriter, _ *http.Request, _ api.Query) error {
			return api.WriteJSON(w, well{"ok"})
		}},
		{Pattern: "/readyz", Handle: func(w http.ResponseWriter, _ *http.Request, _ api.Query) error {
			if err := h.ready(); err != nil {
				return err
			}
			return api.WriteJSON(w, well{"ok"})
		}},
	}
}

type well struct {
	Status string `json:"status"`
}

func writeBytes(w http.ResponseWriter, b []byte) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(b)
	return err
}

// handler answers everybody who may ask, and refuses everybody else.
func (h *hub) handler() (http.Handler, error) {
	routes, err := h.routes()
	if err != nil {
		return nil, err
	}
	answers := api.NewMux(routes, h.log)
	all := api.NewMux(append(discovery(), routes...), h.log)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c, refused := h.door.ask(req)
		if refused != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.Header().Set("Cache-Control", "no-store")
			api.WriteError(w, refused)
			return
		}
		req = req.WithContext(withCaller(req.Context(), c))
		if strings.HasPrefix(req.URL.Path, apiPath+"/v1/") {
			http.StripPrefix(apiPath, answers).ServeHTTP(w, req)
			return
		}
		all.ServeHTTP(w, req)
	}), nil
}

// doors are where clients come in. Whether a client has a certificate, and
// whose, the doorman looks at: those of the front proxy are of an authority that
// is not ours and may change.
func (h *hub) doors(l listeners, handler http.Handler) []api.Door {
	var list []api.Door
	if l.api != nil {
		secure := tls.NewListener(l.api, &tls.Config{
			MinVersion:     tls.VersionTLS12, // as the API servers that are supported
			GetCertificate: h.creds.GetCertificate,
			ClientAuth:     tls.RequestClientCert,
			NextProtos:     []string{"http/1.1"},
			// A session that is taken up again would bring a certificate that may
			// have ended.
			SessionTicketsDisabled: true,
		})
		list = append(list, api.Door{Listener: secure, Handler: handler})
	}
	if l.metrics != nil {
		open := append(h.probes(), h.metricsRoute())
		list = append(list, api.Door{Listener: l.metrics, Handler: api.NewMux(open, h.log)})
	}
	return list
}
