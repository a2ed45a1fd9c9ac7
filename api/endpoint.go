package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An Attachment names one interface of a container, as container runtimes do.
type Attachment struct {
	ContainerID string `json:"containerID"`
	// Interface is its name in the container.
	Interface string `json:"interface"`
}

// String returns container/interface.
func (a Attachment) String() string { return a.ContainerID + "/" + a.Interface }

// check says what is wrong with the names: they are parts of paths.
func (a Attachment) check() error {
	part := func(s string, most int) bool {
		return s != "" && s != "." && s != ".." && len(s) <= most && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' })
	}
	switch {
	case !part(a.ContainerID, 253):
		return BadRequest("%s cannot be a container's id", printable(a.ContainerID))
	case !part(a.Interface, unix.IFNAMSIZ-1):
		return BadRequest("%s cannot be an interface's name", printable(a.Interface))
	}
	return nil
}

// An Endpoint is a pod's interface on this node: what the CNI plugin has made,
// and the datapath connects.
type Endpoint struct {
	Attachment
	// Netns is the path of the container's network namespace.
	Netns string `json:"netns,omitempty"`
	// The pod, as the runtime told it. PodUID of a pod that the kubelet has from
	// a file is not the one that the API server knows.
	PodUID       string `json:"podUID,omitempty"`
	PodNamespace string `json:"podNamespace,omitempty"`
	PodName      string `json:"podName,omitempty"`
	// HostInterface is the host's end of the pair, and HostIndex its number.
	HostInterface string `json:"hostInterface"`
	HostIndex     int    `json:"hostIndex"`
	// Addrs are the pod's addresses, at most one of each family.
	Addrs []netip.Addr `json:"addrs"`
	// MAC is the pod's, HostMAC the one of the host's end.
	MAC     MAC `json:"mac"`
	HostMAC MAC `json:"hostMAC"`
	// Chained is a pair that another CNI plugin has made.
	Chained bool `json:"chained,omitempty"`
}

// MAC is an Ethernet address.
type MAC [6]byte

// String returns it as 02:00:00:00:00:01.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText implements [encoding.TextMarshaler].
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *MAC) UnmarshalText(b []byte) error {
	hw, err := net.ParseMAC(string(b))
	if err != nil || len(hw) != len(m) {
		return fmt.Errorf("%s is no Ethernet address", printable(string(b)))
	}
	copy(m[:], hw)
	return nil
}

// check says what is wrong with an endpoint that somebody wants added.
func (e *Endpoint) check() error {
	if err := e.Attachment.check(); err != nil {
		return err
	}
	var families [2]int
	for _, a := range e.Addrs {
		switch {
		case !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback():
			return BadRequest("%s cannot be a pod's address", a)
		case a.Is4():
			families[0]++
		default:
			families[1]++
		}
	}
	switch {
	case e.HostIndex <= 0 || e.HostInterface == "" || len(e.HostInterface) >= unix.IFNAMSIZ:
		return BadRequest("there is no interface %s with the number %d", printable(e.HostInterface), e.HostIndex)
	case len(e.Addrs) == 0 || families[0] > 1 || families[1] > 1:
		return BadRequest("an endpoint has one address of each family, not %d of IPv4 and %d of IPv6", families[0], families[1])
	case !e.Chained && (e.MAC == MAC{} || e.HostMAC == MAC{}):
		return BadRequest("an endpoint has an Ethernet address at both ends")
	}
	return nil
}

// Endpoints are the pods of this node, as the datapath has them. All methods may
// be called at the same time. An [*Error] that they return is told as it is:
// [Unavailable] asks to try again.
type Endpoints interface {
	// AddEndpoint puts one into the datapath, in the place of what was known of
	// the same attachment, and returns when its pod's policy is in force.
	AddEndpoint(context.Context, Endpoint) error
	// DeleteEndpoint takes one away. That it is not known is no error.
	DeleteEndpoint(context.Context, Attachment) error
	// CheckEndpoint returns one as it is in force, [NotFound] if it is not.
	CheckEndpoint(context.Context, Attachment) (Endpoint, error)
	// ListEndpoints returns all, by their attachment. An error says that no
	// endpoint could be added now, and why.
	ListEndpoints(context.Context) ([]Endpoint, error)
}

const (
	// PathEndpoints is the path of the endpoints below the base; it is answered
	// on the Unix socket only.
	PathEndpoints = "/endpoints"
	// endpointTime is how long an endpoint may take to be in force: less than
	// clients wait for an answer.
	endpointTime = 20 * time.Second
	maxEndpoint  = 64 << 10
)

// endpoints answers on the Unix socket what nobody else may ask, and leaves the
// rest to next.
type endpoints struct {
	list Endpoints
	next *Server
}

// Operations of endpoints, which openapi.json describes: method and path.
func (*endpoints) operations() [][2]string {
	const all, one = "/v1" + PathEndpoints, "/v1" + PathEndpoints + "/{container}/{interface}"
	return [][2]string{{http.MethodGet, all}, {http.MethodPost, all}, {http.MethodGet, one}, {http.MethodDelete, one}}
}

// takesBody reports whether a request may have a body.
func (*endpoints) takesBody(req *http.Request) bool {
	return req.Method == http.MethodPost && req.URL.Path == "/v1"+PathEndpoints && req.ContentLength > 0 && req.ContentLength <= maxEndpoint
}

// ServeHTTP implements [http.Handler].
func (s *endpoints) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	rest, ours := strings.CutPrefix(req.URL.EscapedPath(), "/v1"+PathEndpoints)
	if !ours || rest != "" && rest[0] != '/' {
		s.next.ServeHTTP(w, req)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	var a *Attachment
	err := error(nil)
	if rest != "" {
		a, err = attachmentOf(rest[1:])
	}
	if err == nil {
		_, err = parseQuery(req, nil)
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(req.Context(), endpointTime)
		defer cancel()
		err = s.serve(ctx, w, req, a)
		if errors.Is(err, context.DeadlineExceeded) {
			err = Unavailable("it is not done after %s: %v", endpointTime, err)
		}
	}
	if err != nil {
		Fail(w, req, s.next.log, err)
	}
}

func (s *endpoints) serve(ctx context.Context, w http.ResponseWriter, req *http.Request, a *Attachment) error {
	switch {
	case req.Method == http.MethodGet && a == nil:
		list, err := s.list.ListEndpoints(ctx)
		if err != nil {
			return err
		}
		return WriteJSON(w, endpointList{append([]Endpoint{}, list...)})
	case req.Method == http.MethodGet:
		e, err := s.list.CheckEndpoint(ctx, *a)
		if err != nil {
			return err
		}
		return WriteJSON(w, e)
	case req.Method == http.MethodPost && a == nil, req.Method == http.MethodDelete && a != nil:
		if uid, ok := uidOf(req.Context()); ok && uid != 0 {
			return Forbidden("endpoints are changed by root only")
		}
		if req.Method == http.MethodDelete {
			if err := s.list.DeleteEndpoint(ctx, *a); err != nil {
				return err
			}
			return WriteJSON(w, a)
		}
		e, err := readEndpoint(req)
		if err != nil {
			return err
		}
		if err := s.list.AddEndpoint(ctx, *e); err != nil {
			return err
		}
		return WriteJSON(w, e)
	}
	allow := "GET, POST"
	if a != nil {
		allow = "GET, DELETE"
	}
	w.Header().Set("Allow", allow)
	return &Error{Status: http.StatusMethodNotAllowed, Message: fmt.Sprintf("method %s is not allowed: this path answers %s", printable(req.Method), allow)}
}

type endpointList struct {
	Endpoints []Endpoint `json:"endpoints"`
}

func readEndpoint(req *http.Request) (*Endpoint, error) {
	b, err := io.ReadAll(io.LimitReader(req.Body, maxEndpoint))
	if err != nil {
		return nil, &clientGone{err}
	}
	return parseEndpoint(b)
}

func parseEndpoint(b []byte) (*Endpoint, error) {
	e := &Endpoint{}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(e); err != nil {
		return nil, BadRequest("this is no endpoint: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, BadRequest("this is no endpoint: more comes after it")
	}
	return e, e.check()
}

func attachmentOf(path string) (*Attachment, error) {
	container, ifname, ok := strings.Cut(path, "/")
	if !ok || strings.Contains(ifname, "/") {
		return nil, NotFound("no such path: an endpoint is /v1%s/CONTAINER/INTERFACE", PathEndpoints)
	}
	a := &Attachment{}
	var err1, err2 error
	a.ContainerID, err1 = url.PathUnescape(container)
	a.Interface, err2 = url.PathUnescape(ifname)
	if err := errors.Join(err1, err2); err != nil {
		return nil, BadRequest("%v", err)
	}
	return a, a.check()
}

type connKey struct{}

// withConn keeps the connection of a request for those who want to know who is
// at its other end.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// uidOf returns who is at the other end of a Unix socket.
func uidOf(ctx context.Context) (uint32, bool) {
	c, ok := ctx.Value(connKey{}).(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return math.MaxUint32, true
	}
	uid := uint32(math.MaxUint32)
	if err := raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = cred.Uid
		}
	}); err != nil {
		return math.MaxUint32, true
	}
	return uid, true
}

// AddEndpoint puts a pod into the datapath of the agent, and returns when its
// policy is in force. The agent must be on a Unix socket, as for all endpoints.
func (c *Client) AddEndpoint(ctx context.Context, e Endpoint) error {
	if err := e.check(); err != nil {
		return err
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = c.send(ctx, http.MethodPost, PathEndpoints, b)
	return err
}

// DeleteEndpoint takes a pod out of the datapath. That it is not there is no
// error.
func (c *Client) DeleteEndpoint(ctx context.Context, a Attachment) error {
	if err := a.check(); err != nil {
		return err
	}
	_, err := c.send(ctx, http.MethodDelete, a.path(), nil)
	return err
}

// CheckEndpoint returns an endpoint as it is in force.
func (c *Client) CheckEndpoint(ctx context.Context, a Attachment) (Endpoint, error) {
	var e Endpoint
	if err := a.check(); err != nil {
		return e, err
	}
	b, err := c.send(ctx, http.MethodGet, a.path(), nil)
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	return e, err
}

// ListEndpoints returns the pods in the datapath. Its error says that none could
// be added now.
func (c *Client) ListEndpoints(ctx context.Context) ([]Endpoint, error) {
	var list endpointList
	b, err := c.send(ctx, http.MethodGet, PathEndpoints, nil)
	if err == nil {
		err = json.Unmarshal(b, &list)
	}
	slices.SortFunc(list.Endpoints, func(a, b Endpoint) int { return strings.Compare(a.String(), b.String()) })
	return list.Endpoints, err
}

func (a Attachment) path() string {
	return PathEndpoints + "/" + url.PathEscape(a.ContainerID) + "/" + url.PathEscape(a.Interface)
}
