package audit

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"warren/event"
)

// metadata is an event of the level that only says who asked for what.
const metadata = `{"level":"Metadata","auditID":"%08d-5f0e-4f0e-9f0e-0123456789ab","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/shop/configmaps/settings?timeout=10s","verb":"get",` +
	`"user":{"username":"system:serviceaccount:shop:web","uid":"0b7c2e0a-5d0e-4d52-8b7a-0123456789ab","groups":["system:serviceaccounts","system:serviceaccounts:shop","system:authenticated"]},` +
	`"sourceIPs":["10.0.3.7"],"userAgent":"web/v1.2 (linux/amd64) kubernetes/abcdef","objectRef":{"resource":"configmaps","namespace":"shop","name":"settings","apiVersion":"v1"},` +
	`"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-21T10:00:00.000001Z","stageTimestamp":"2026-11-21T10:00:00.250000Z",` +
	`"annotations":{"authorization.k8s.io/decision":"allow","authorization.k8s.io/reason":"RBAC: allowed by RoleBinding web/shop"}`

// created is what the level RequestResponse adds to it, of a pod that is made.
const created = `"metadata":{"name":"web-0","namespace":"shop","labels":{"app":"web","tier":"front"},"annotations":{"checksum/config":"` + "0123456789abcdef0123456789abcdef" + `"}},` +
	`"spec":{"serviceAccountName":"web","volumes":[{"name":"data","emptyDir":{}},{"name":"settings","configMap":{"name":"settings"}}],` +
	`"initContainers":[{"name":"wait","image":"registry.example/wait:1","command":["sh","-c"],"args":["until nc -z db 5432; do sleep 1; done"]}],` +
	`"containers":[{"name":"web","image":"registry.example/web:1.2","ports":[{"containerPort":8080}],"env":[{"name":"DB","value":"db:5432"},{"name":"MODE","value":"production"}],` +
	`"resources":{"limits":{"cpu":"1","memory":"512Mi"}},"volumeMounts":[{"name":"data","mountPath":"/data"},{"name":"settings","mountPath":"/etc/web"}],` +
	`"securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"runAsUser":1000}}]}`

// discard takes events and keeps none.
type discard struct{ told int }

func (d *discard) Tell(*event.Event)     { d.told++ }
func (*discard) TellLost(*event.Lost)    {}
func (*discard) Crowded(event.Kind) bool { return false }

// BenchmarkEvent is what an audit event costs from the body of a webhook's request,
// or the line of a log, until it is an event among the others: an operation is one
// event, of which a request has a hundred.
func BenchmarkEvent(b *testing.B) {
	const each = 100
	for name, text := range map[string]string{
		"Metadata":        metadata + "}",
		"RequestResponse": metadata + `,"requestObject":{` + created + `},"responseObject":{` + created + `}}`,
	} {
		b.Run(name, func(b *testing.B) {
			to := &discard{}
			in := NewIntake(to, slog.New(slog.DiscardHandler))
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for n := 0; n < b.N; n += each {
				b.StopTimer()
				items := make([]string, each)
				for i := range items {
					items[i] = fmt.Sprintf(text, n+i)
				}
				body := []byte(`{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[` + strings.Join(items, ",") + `]}`)
				b.StartTimer()
				list, err := parseList(body)
				if err != nil {
					b.Fatal(err)
				}
				for x := range list {
					in.take(x)
				}
			}
			if to.told < b.N {
				b.Fatalf("%d of %d events were told", to.told, b.N)
			}
		})
	}
}
