package hub

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"warren/api"
	"warren/kube"
)

const (
	// dialTime bounds the way to an agent, its certificate included.
	dialTime = 3 * time.Second
	// idleConns is how many connections to an agent are kept for the next
	// question.
	idleConns = 4
	// probeTime is how often an agent is asked for a sign of life from which
	// nothing comes, where what it sends has none.
	probeTime = 10 * time.Second
)

// A dialer knows the way to agents: by TLS, with certificates of both ends.
type dialer struct{ creds *api.Credentials }

// rows returns a client of an agent's lists and streams. It does not connect
// before the first question.
func (d dialer) rows(k kube.Agent) *api.Client {
	addr := netip.AddrPortFrom(k.Addr, k.HubPort).String()
	rt := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTime)
			defer cancel()
			return d.creds.Dial(ctx, addr, api.AgentName, "http/1.1")
		},
		DisableCompression:  true,
		MaxIdleConnsPerHost: idleConns,
		IdleConnTimeout:     time.Minute,
		ReadBufferSize:      16 << 10, // what one read of TLS brings at most; there is one for each stream of each node
	}
	return api.NewHTTPClient(&url.URL{Scheme: "https", Host: addr, Path: "/v1"}, rt)
}

// flows returns a connection to an agent's flows, which is made at the first
// question.
func (d dialer) flows(k kube.Agent) (*grpc.ClientConn, error) {
	addr := netip.AddrPortFrom(k.Addr, k.HubblePort).String()
	return grpc.NewClient("passthrough:///"+addr,
		// TLS is done by who dials.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return d.creds.Dial(ctx, addr, api.AgentName, "h2")
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           grpcbackoff.Config{BaseDelay: backoffLeast, Multiplier: 2, Jitter: 0.5, MaxDelay: backoffMost},
			MinConnectTimeout: dialTime,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: probeTime, Timeout: silence}),
	)
}
