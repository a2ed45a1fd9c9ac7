package hub

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/kube"
)

// refusal is why somebody was not let in, in metrics.
type refusal string

const (
	refusedNothing     refusal = "no_credentials" // neither certificate nor token
	refusedCertificate refusal = "certificate"    // it is not the front proxy's
	refusedHeaders     refusal = "headers"        // of the front proxy, without a user
	refusedToken       refusal = "token"          // the cluster does not know it
	refusedRights      refusal = "rights"         // the user may not
	refusedLate        refusal = "revoked"        // the user may not any more, while being answered
)

var refusals = []refusal{refusedNothing, refusedCertificate, refusedHeaders, refusedToken, refusedRights, refusedLate}

// reviewer is what the cluster says of users.
type reviewer interface {
	ReviewToken(ctx context.Context, token string) (cluster.User, error)
	MayGetPods(ctx context.Context, u cluster.User, namespace string) (bool, error)
}

// A doorman finds out who asks. Any goroutine may use it.
type doorman struct {
	tokens *tokens
	proxy  atomic.Pointer[frontProxy] // nil as long as it is not known
	log    *slog.Logger
	now    func() time.Time

	refused [6]atomic.Uint64 // by refusals
}

func newDoorman(r reviewer, review time.Duration, log *slog.Logger) *doorman {
	return &doorman{tokens: newTokens(r, review), log: log, now: time.Now}
}

// setProxy takes in how the front proxy is known.
func (d *doorman) setProxy(h kube.RequestHeader) {
	p, err := newFrontProxy(h)
	if err != nil {
		d.log.Warn("requests by way of the API server cannot be answered", "err", err)
	}
	d.proxy.Store(p)
}

// refuse logs and counts that somebody was not let in, and returns what they
// are told.
func (d *doorman) refuse(why refusal, from, who, what string, err *api.Error) *api.Error {
	for i, r := range refusals {
		if r == why {
			d.refused[i].Add(1)
		}
	}
	d.log.Warn("refused", "why", string(why), "who", who, "from", from, "what", what, "err", err.Message)
	return err
}

// ask returns who makes a request. The error is what they are told.
func (d *doorman) ask(req *http.Request) (*caller, *api.Error) {
	what := req.Method + " " + req.URL.Path
	claim := ""
	if req.TLS != nil && len(req.TLS.PeerCertificates) > 0 {
		p, chain := d.proxy.Load(), req.TLS.PeerCertificates
		err := errors.New("the front proxy is not known yet")
		if p != nil {
			err = p.verify(chain, d.now())
		}
		if err == nil {
			u, err := p.user(req.Header)
			if err != nil {
				return nil, d.refuse(refusedHeaders, req.RemoteAddr, "front proxy", what, api.Unauthorized("%v", err))
			}
			return &caller{user: u, from: req.RemoteAddr}, nil
		}
		claim = fmt.Sprintf("the certificate %q is not accepted: %v", chain[0].Subject.CommonName, certificateError(err))
	}
	// From here on headers that say who asks mean nothing.
	c, refused, why := d.bearer(req.Context(), req.Header.Values("Authorization"), req.RemoteAddr)
	switch {
	case why == nil:
		return c, nil
	case refused == refusedNothing && claim != "":
		refused, why.Message = refusedCertificate, claim
	}
	if why.Status != http.StatusUnauthorized {
		return nil, why // nobody is refused: the cluster cannot be asked
	}
	who := "nobody"
	if claim != "" {
		who = req.TLS.PeerCertificates[0].Subject.CommonName
	}
	return nil, d.refuse(refused, req.RemoteAddr, who, what, why)
}

// certificateError says in few words what is wrong with a certificate.
func certificateError(err error) string {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return "it is of another authority"
	}
	return err.Error()
}

// maxToken bounds what is taken for a token. Those of service accounts have
// about a thousand bytes.
const maxToken = 16 << 10

// bearer finds out who has the token in an Authorization header.
func (d *doorman) bearer(ctx context.Context, headers []string, from string) (*caller, refusal, *api.Error) {
	if len(headers) == 0 {
		e := api.Unauthorized("nobody says who asks")
		e.Hint = "ask by way of kubectl, or with a bearer token of the cluster"
		return nil, refusedNothing, e
	}
	token, err := parseBearer(headers)
	if err != nil {
		return nil, refusedToken, api.Unauthorized("%v", err)
	}
	return d.token(ctx, token, from)
}

// token finds out whose token that is.
func (d *doorman) token(ctx context.Context, token, from string) (*caller, refusal, *api.Error) {
	u, err := d.tokens.user(ctx, token, from)
	switch {
	case errors.Is(err, kube.ErrUnauthenticated):
		return nil, refusedToken, api.Unauthorized("the cluster does not accept the token")
	case err != nil:
		d.log.Warn("a token could not be reviewed", "from", from, "err", err)
		return nil, refusedToken, api.Unavailable("the cluster cannot be asked whose token that is")
	}
	return &caller{user: u, token: token, from: from}, "", nil
}

// again asks anew who somebody is whose answer goes on: tokens end.
func (d *doorman) again(ctx context.Context, c *caller) error {
	if c.token == "" {
		return nil
	}
	u, err := d.tokens.user(ctx, c.token, c.from)
	if err == nil && identityOf(u) != identityOf(c.user) {
		return kube.ErrUnauthenticated
	}
	return err
}

// parseBearer returns the token of an Authorization header.
func parseBearer(headers []string) (string, error) {
	if len(headers) != 1 {
		return "", errors.New("there are several Authorization headers")
	}
	scheme, token, ok := strings.Cut(headers[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", errors.New("the Authorization header has no bearer token")
	}
	return checkToken(strings.Trim(token, " "))
}

// checkToken says whether something can be a token at all, before the cluster is
// asked: RFC 6750 has the characters.
func checkToken(token string) (string, error) {
	switch {
	case token == "":
		return "", errors.New("the bearer token is empty")
	case len(token) > maxToken:
		return "", fmt.Errorf("the bearer token has %d bytes: none has more than %d", len(token), maxToken)
	}
	for i := range len(token) {
		switch b := token[i]; {
		case 'a' <= b|0x20 && b|0x20 <= 'z', '0' <= b && b <= '9', strings.IndexByte("-._~+/=:", b) >= 0:
		default:
			return "", errors.New("the bearer token has characters that no token has")
		}
	}
	return token, nil
}

// tokens remembers for a while whose token is whose. Of a token only a hash is
// kept. Any goroutine may use it.
type tokens struct {
	reviewer reviewer
	now      func() time.Time
	good     time.Duration // for how long an answer counts
	bad      time.Duration
	asking   *flights[tokenHash, cluster.User]

	mu      sync.Mutex
	known   map[tokenHash]tokenAnswer
	waiting map[string]int // by address: tokens from there that are not known
	reviews atomic.Uint64
}

type tokenHash [sha256.Size]byte

type tokenAnswer struct {
	user  cluster.User
	err   error
	until time.Time // it is not asked for again before
	away  time.Time // it counts until then where the cluster cannot be asked
}

const (
	// mostTokens bounds how many are remembered.
	mostTokens = 4096
	// badTime is for how long who was refused is refused unasked.
	badTime = 5 * time.Second
	// mostWaiting is how many unknown tokens from one address are waited for at a
	// time: who tries many keeps nobody else from being asked about.
	mostWaiting = 8
)

func newTokens(r reviewer, review time.Duration) *tokens {
	// A running answer looks twice in a review's time: what was known for half
	// of it and holds for the other half makes one.
	return &tokens{reviewer: r, now: time.Now, good: review / 2, bad: min(badTime, review/2), asking: newFlights[tokenHash, cluster.User](), known: map[tokenHash]tokenAnswer{}, waiting: map[string]int{}}
}

// user returns whose token it is that somebody shows from an address, host and
// port: the error is kube.ErrUnauthenticated where the cluster refuses it, and any
// other where it could not be asked.
func (t *tokens) user(ctx context.Context, token, from string) (cluster.User, error) {
	hash := tokenHash(sha256.Sum256([]byte(token)))
	if host, _, err := net.SplitHostPort(from); err == nil {
		from = host
	}
	t.mu.Lock()
	a, ok := t.known[hash]
	if ok && t.now().Before(a.until) {
		t.mu.Unlock()
		return a.user, a.err
	}
	if t.waiting[from] >= mostWaiting {
		t.mu.Unlock()
		return cluster.User{}, errBusy // also where the askers have gone: their questions have not
	}
	t.waiting[from]++
	t.mu.Unlock()
	u, err := t.asking.do(ctx, hash, func(ctx context.Context) (cluster.User, error) {
		t.reviews.Add(1)
		u, err := t.reviewer.ReviewToken(ctx, token)
		if err != nil && !errors.Is(err, kube.ErrUnauthenticated) {
			return u, err // it was not asked: nothing is known
		}
		now := t.now()
		a := tokenAnswer{user: u, until: now.Add(t.good), away: now.Add(awayTime)}
		if err != nil {
			a = tokenAnswer{err: kube.ErrUnauthenticated, until: now.Add(t.bad)}
		}
		t.keep(hash, a)
		return a.user, a.err
	}, func() { t.waited(from) })
	if err != nil && !errors.Is(err, kube.ErrUnauthenticated) && ctx.Err() == nil && t.now().Before(a.away) {
		return a.user, nil
	}
	return u, err
}

func (t *tokens) waited(from string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[from]--; t.waiting[from] == 0 {
		delete(t.waiting, from)
	}
}

func (t *tokens) keep(hash tokenHash, a tokenAnswer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) >= mostTokens {
		now := t.now()
		for h, old := range t.known {
			if now.After(old.until) {
				delete(t.known, h)
			}
		}
	}
	if len(t.known) >= mostTokens {
		clear(t.known) // somebody tries many: ask anew
	}
	t.known[hash] = a
}
