package channel

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A webhook posts alerts, one at a time.
type webhook struct {
	cfg    *Config
	client *http.Client
	agent  string
	kind   string // of the body
	body   func(alert []byte) ([]byte, error)
}

func openWebhook(cfg *Config, env *Env) (sender, error) {
	body := func(alert []byte) ([]byte, error) { return alert, nil }
	if cfg.Template != "" || cfg.TemplateFile != "" {
		var err error
		if body, err = templated(cfg); err != nil {
			return nil, err
		}
	}
	return newWebhook(cfg, env, jsonType, body)
}

func newWebhook(cfg *Config, env *Env, kind string, body func([]byte) ([]byte, error)) (*webhook, error) {
	tc, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	w := &webhook{cfg: cfg, agent: cfg.UserAgent, kind: kind, body: body}
	if w.agent == "" {
		w.agent = "warren/" + env.Version
	}
	if cfg.ContentType != "" {
		w.kind = cfg.ContentType
	}
	w.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{}).DialContext,
			TLSClientConfig:        tc,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           1,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: maxAnswer,
			DisableCompression:     true, // an answer is read as it comes
		},
		// Headers are for whom they were meant for, and for nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return w, nil
}

// maxAnswer is how much of an answer is read, in bytes: of the head, and of the
// body.
const maxAnswer = 16 << 10

func (w *webhook) send(ctx context.Context, alerts [][]byte) (int, error) {
	for i, a := range alerts {
		body, err := w.body(a)
		var absent *absentError
		if errors.As(err, &absent) {
			return i, err
		}
		if err != nil {
			return i, &refusedError{err}
		}
		if _, err := w.post(ctx, body); err != nil {
			return i, err
		}
	}
	return len(alerts), nil
}

func (w *webhook) close() { w.client.CloseIdleConnections() }

// post sends a body, and returns the beginning of the answer. Its errors say
// nothing of the URL but the host.
func (w *webhook) post(ctx context.Context, body []byte) ([]byte, error) {
	target := w.cfg.URL
	var err error
	if w.cfg.URLFile != "" {
		if target, err = secret(w.cfg.URLFile); err != nil {
			return nil, err
		}
	}
	u, err := parseURL(target)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.cfg.URLFile, err)
	}
	if err := w.cfg.checkURL(target); err != nil {
		return nil, fmt.Errorf("%s: %w", u.Host, err)
	}
	if w.cfg.Compress {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		if _, err := z.Write(body); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		body = b.Bytes()
	}
	method := http.MethodPost
	if w.cfg.Method != "" {
		method = w.cfg.Method
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("this request cannot be made")
	}
	req.Header.Set("User-Agent", w.agent)
	req.Header.Set("Content-Type", w.kind)
	if w.cfg.Compress {
		req.Header.Set("Content-Encoding", "gzip")
	}
	for name, v := range w.cfg.Headers {
		setHeader(req, name, v)
	}
	for name, path := range w.cfg.HeaderFiles {
		v, err := secret(path)
		if err != nil {
			return nil, err
		}
		setHeader(req, name, v)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("%s: %w", u.Host, err)
	}
	// Whatever comes behind what is read ends with the connection.
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return said, w.judge(u, resp, said)
}

func setHeader(req *http.Request, name, v string) {
	if name == "Host" {
		req.Host = v
		return
	}
	req.Header.Set(name, v)
}

// judge says what an answer means: of those that are no success, some are about the
// alert, and the others about the receiver or the configuration, which can change.
func (w *webhook) judge(u *url.URL, resp *http.Response, said []byte) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err := fmt.Errorf("%s answers %d %s%s", u.Host, resp.StatusCode, http.StatusText(resp.StatusCode), excerpt(said))
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge:
		return &refusedError{err}
	}
	if resp.StatusCode/100 == 3 {
		to := "elsewhere"
		if l, lerr := resp.Location(); lerr == nil {
			to = l.Scheme + "://" + l.Host
		}
		return fmt.Errorf("%s answers %d: it sends us on to %s, which is not followed: give the right url", u.Host, resp.StatusCode, to)
	}
	if after := retryAfter(resp.Header.Get("Retry-After"), time.Now()); after > 0 {
		return &laterError{err, after}
	}
	return err
}

// excerpt is a little of what a receiver said, to stand behind an error.
func excerpt(said []byte) string {
	const most = 200
	text := readable(said[:min(len(said), most)])
	if text == "" {
		return ""
	}
	return ": " + text
}

// readable is a line of what somebody said, safe to show.
func readable(said []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(said), "")))
}

// retryAfter reads how long to wait: seconds, or a time.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		return max(0, time.Duration(n)*time.Second)
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// config makes what the tls package wants. Files are read now; the certificate
// again for each connection.
func (t *TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.Insecure} //nolint:gosec // somebody has said so
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", t.CA)
		}
	}
	if t.Cert != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, err
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return c, nil
}
