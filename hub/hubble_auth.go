package hub

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	peerpb "github.com/cilium/cilium/api/v1/peer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"warren/api"
)

// serveHubble answers Hubble's clients until ctx ends. It closes the listener.
func (h *hub) serveHubble(ctx context.Context, l net.Listener) error {
	options := append(api.HubbleServerOptions(),
		grpc.Creds(credentials.NewTLS(&tls.Config{
			MinVersion:             tls.VersionTLS12,
			GetCertificate:         h.creds.GetCertificate,
			ClientAuth:             tls.RequestClientCert, // who has none needs a token: see hubbleCaller
			NextProtos:             []string{"h2"},
			SessionTicketsDisabled: true,
		})),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			c, err := h.hubbleCaller(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			return handle(withCaller(ctx, c), req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			c, err := h.hubbleCaller(stream.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			return handle(srv, &calledStream{stream, withCaller(stream.Context(), c)})
		}),
	)
	s := grpc.NewServer(options...)
	r := &relay{h: h}
	observerpb.RegisterObserverServer(s, r)
	peerpb.RegisterPeerServer(s, r)
	well := health.NewServer()
	well.SetServingStatus(api.HubbleHealth, healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s, well)
	return api.ServeGRPC(ctx, s, l)
}

// calledStream is a stream of which it is known who called.
type calledStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements [grpc.ServerStream].
func (s *calledStream) Context() context.Context { return s.ctx }

// hubbleCaller returns who calls: a part of this installation by its
// certificate, or whoever has the token that is shown. The error is for the
// client.
func (h *hub) hubbleCaller(ctx context.Context, what string) (*caller, error) {
	from, claim := "", error(nil)
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			if claim = h.creds.Verify(info.State.PeerCertificates, api.HubName, api.HubbleName); claim == nil {
				c := &caller{trusted: true, from: from}
				c.user.Name = info.State.PeerCertificates[0].Subject.CommonName
				return c, nil
			}
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	headers := md.Get("authorization")
	if len(headers) == 0 {
		e := api.Unauthorized("nobody says who asks")
		e.Hint = "give a token of the cluster: --basic-auth-username token --basic-auth-password TOKEN"
		why := refusedNothing
		if claim != nil {
			why, e.Message = refusedCertificate, "the certificate is not accepted: "+certificateError(claim)
		}
		return nil, grpcError(h.door.refuse(why, from, "nobody", what, e))
	}
	token, err := parseHubbleToken(headers)
	if err != nil {
		return nil, grpcError(h.door.refuse(refusedToken, from, "nobody", what, api.Unauthorized("%v", err)))
	}
	c, why, refused := h.door.token(ctx, token, from)
	switch {
	case refused == nil:
		return c, nil
	case refused.Status != http.StatusUnauthorized:
		return nil, grpcError(refused)
	}
	return nil, grpcError(h.door.refuse(why, from, "nobody", what, refused))
}

// parseHubbleToken returns the token that a client of Hubble shows: as a bearer
// token, or as the password of basic authentication, which is what Hubble's
// command line has flags for. The user's name says nothing.
func parseHubbleToken(headers []string) (string, error) {
	if len(headers) != 1 {
		return "", errors.New("there are several authorizations")
	}
	scheme, rest, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Basic") {
		return parseBearer(headers)
	}
	if len(rest) > 2*maxToken {
		return "", errors.New("the password is longer than any token")
	}
	plain, err := base64.StdEncoding.DecodeString(strings.Trim(rest, " "))
	if err != nil {
		return "", errors.New("the basic authorization is not in base64")
	}
	_, password, ok := strings.Cut(string(plain), ":")
	if !ok {
		return "", errors.New("the basic authorization has no password")
	}
	return checkToken(password)
}

// grpcError returns an error of the HTTP API as one of gRPC.
func grpcError(e *api.Error) error {
	code := codes.Internal
	switch e.Status {
	case http.StatusBadRequest:
		code = codes.InvalidArgument
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusForbidden:
		code = codes.PermissionDenied
	case http.StatusServiceUnavailable:
		code = codes.Unavailable
	}
	return status.Error(code, e.Error())
}
