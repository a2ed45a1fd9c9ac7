package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// RequestHeader says how to know requests that the API server passes on, and
// who asks them. The zero value is that of a cluster that passes nothing on:
// nobody is to be believed.
type RequestHeader struct {
	CA              []byte   // PEM: who signs the front proxy's certificate
	AllowedNames    []string // common names of it; empty allows any
	UsernameHeaders []string
	UIDHeaders      []string
	GroupHeaders    []string
	ExtraPrefixes   []string
}

const (
	requestHeaderNamespace = "kube-system"
	requestHeaderName      = "extension-apiserver-authentication"
)

// WatchRequestHeader calls set with the cluster's configuration of its front
// proxy, first when it is known and then whenever it changes, until ctx ends:
// with the zero value where the cluster has none. While the server is away set
// is not called, nor for a configuration that cannot be read: the one before it
// counts, and the error is in the Stats of "requestheader".
func (c *Client) WatchRequestHeader(ctx context.Context, set func(RequestHeader)) error {
	count := c.meter.of("requestheader")
	var now, last RequestHeader
	told := false
	r := &resource{
		name: "requestheader", path: "/api/v1/namespaces/" + requestHeaderNamespace + "/configmaps",
		fields:  "metadata.name=" + requestHeaderName,
		convert: of(func(m *corev1.ConfigMap) (string, any) { return m.Name, m.Data }),
		set: func(_ string, v any, at time.Time) {
			data, _ := v.(map[string]string)
			h, err := parseRequestHeader(data)
			if err != nil {
				count.failed(fmt.Errorf("read the configuration of the front proxy: %w", err), at)
				now = last
				return
			}
			now = h
		},
		gone: func(string, any, time.Time) { now = RequestHeader{} },
	}
	s := &store{resource: r, counter: count, known: make(map[string]bool), now: time.Now, synced: func() {}}
	s.after = func() {
		if told && reflect.DeepEqual(now, last) {
			return
		}
		told, last = true, now
		set(now)
	}
	c.reflect(ctx, r, s, slog.New(slog.DiscardHandler), func(error) {})
	return ctx.Err()
}

// parseRequestHeader reads the data of the cluster's config map: a certificate,
// and lists as JSON texts.
func parseRequestHeader(data map[string]string) (RequestHeader, error) {
	h := RequestHeader{}
	if ca := data["requestheader-client-ca-file"]; ca != "" {
		h.CA = []byte(ca)
	}
	for key, list := range map[string]*[]string{
		"requestheader-allowed-names":        &h.AllowedNames,
		"requestheader-username-headers":     &h.UsernameHeaders,
		"requestheader-uid-headers":          &h.UIDHeaders,
		"requestheader-group-headers":        &h.GroupHeaders,
		"requestheader-extra-headers-prefix": &h.ExtraPrefixes,
	} {
		text := data[key]
		if text == "" {
			continue
		}
		if err := json.Unmarshal([]byte(text), list); err != nil {
			return RequestHeader{}, fmt.Errorf("%s: %w", key, err)
		}
	}
	return h, nil
}
