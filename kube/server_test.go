package kube

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// server is an API server for tests: it speaks the true protocol, lists in
// pages and watches with bookmarks, protobuf and JSON, from what it is told.
type server struct {
	*httptest.Server
	t      testing.TB
	codecs serializer.CodecFactory

	mu      sync.Mutex
	changed *sync.Cond
	version int
	// compacted is the version before which nothing is known any more; forgotten
	// is that of a path's history.
	compacted int
	forgotten map[string]int
	objects   map[string]map[string]runtime.Object // path -> namespace/name
	history   map[string][]change                  // path
	cuts      int                                  // connections are cut when it grows
	requests  []*http.Request

	// streams says whether lists can be streamed, jsonOnly that it knows no
	// protobuf. answer, if it is not nil, may answer a request in its place.
	streams, jsonOnly bool
	answer            func(w http.ResponseWriter, r *http.Request) bool
}

type change struct {
	version int
	kind    watch.EventType
	object  runtime.Object
}

// newServer starts a server that streams lists. prepare may change it, and how
// it listens, before.
func newServer(t testing.TB, prepare func(*server)) *server {
	t.Helper()
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{
		t: t, codecs: serializer.NewCodecFactory(scheme), version: 100, streams: true,
		objects: make(map[string]map[string]runtime.Object), history: make(map[string][]change), forgotten: make(map[string]int),
	}
	s.changed = sync.NewCond(&s.mu)
	s.Server = httptest.NewUnstartedServer(s)
	s.EnableHTTP2 = true
	if prepare != nil {
		prepare(s)
	}
	s.StartTLS()
	t.Cleanup(func() {
		s.cut()
		s.Close()
	})
	return s
}

// client is one of this server, that retries soon.
func (s *server) client() *Client {
	s.t.Helper()
	c, err := connect(&rest.Config{Host: s.URL, TLSClientConfig: rest.TLSClientConfig{CAData: s.pem()}})
	if err != nil {
		s.t.Fatal(err)
	}
	c.retry.Duration, c.retry.Cap = 5*time.Millisecond, 20*time.Millisecond
	return c
}

// put tells an object, as it is now.
func (s *server) put(path string, o runtime.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := s.stamp(o)
	kind := watch.Modified
	if s.objects[path] == nil {
		s.objects[path] = make(map[string]runtime.Object)
	}
	if s.objects[path][key] == nil {
		kind = watch.Added
	}
	s.objects[path][key] = o
	s.remember(path, change{s.version, kind, o})
}

// remove deletes an object.
func (s *server) remove(path string, o runtime.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o = o.DeepCopyObject()
	delete(s.objects[path], s.stamp(o))
	s.remember(path, change{s.version, watch.Deleted, o})
}

// mostRemembered is how many changes of a path are, twice as many at most.
const mostRemembered = 20_000

func (s *server) remember(path string, c change) {
	all := append(s.history[path], c)
	if len(all) > 2*mostRemembered {
		s.forgotten[path] = all[mostRemembered].version
		all = slices.Clone(all[mostRemembered:])
	}
	s.history[path] = all
	s.changed.Broadcast()
}

func (s *server) stamp(o runtime.Object) string {
	s.version++
	m, err := meta.Accessor(o)
	if err != nil {
		panic(err)
	}
	m.SetResourceVersion(strconv.Itoa(s.version))
	return m.GetNamespace() + "/" + m.GetName()
}

// cut cuts all connections in the middle of what they say.
func (s *server) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts++
	s.changed.Broadcast()
}

// compact forgets what was: watches from before now are answered 410.
func (s *server) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.compacted = s.version
	clear(s.history)
}

// respond sets who answers in the server's place.
func (s *server) respond(answer func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// asked returns the requests that match.
func (s *server) asked(match func(*http.Request) bool) (matching []*http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if match(r) {
			matching = append(matching, r)
		}
	}
	return matching
}

// ServeHTTP implements http.Handler.
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	answer := s.answer
	s.mu.Unlock()
	if answer != nil && answer(w, r) {
		return
	}
	q := r.URL.Query()
	if q.Get("watch") != "" {
		s.watch(w, r)
		return
	}
	s.list(w, r)
}

// media is how an answer is written.
func (s *server) media(r *http.Request) (info runtime.SerializerInfo, contentType string, partial bool) {
	accept := r.Header.Get("Accept")
	want := runtime.ContentTypeJSON
	if strings.Contains(accept, "protobuf") && !s.jsonOnly && r.URL.Path != cnpPath { // extensions know no protobuf
		want = runtime.ContentTypeProtobuf
	}
	info, _ = runtime.SerializerInfoForMediaType(s.codecs.SupportedMediaTypes(), want)
	return info, want, strings.Contains(accept, "as=PartialObjectMetadata")
}

// status answers with an error of the API.
func (s *server) status(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(&metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message,
	})
}

// shown is an object as a request wants to see it, and the version of its kind.
func shown(o runtime.Object, partial bool) (runtime.Object, schema.GroupVersion) {
	m, err := meta.Accessor(o)
	if err != nil {
		panic(err)
	}
	if partial {
		p := meta.AsPartialObjectMetadata(m)
		p.ResourceVersion = m.GetResourceVersion()
		return p, metav1.SchemeGroupVersion
	}
	return o.DeepCopyObject(), versionOf(o) // encoders write into what they encode
}

// selected is true for objects that a request selects.
func selected(o runtime.Object, q url.Values) bool {
	m, err := meta.Accessor(o)
	if err != nil {
		panic(err)
	}
	byLabel, err := labels.Parse(q.Get("labelSelector"))
	if err != nil {
		panic(err)
	}
	byField, err := fields.ParseSelector(q.Get("fieldSelector"))
	if err != nil {
		panic(err)
	}
	has := fields.Set{"metadata.name": m.GetName()}
	if p, ok := o.(*corev1.Pod); ok {
		has["spec.nodeName"] = p.Spec.NodeName
	}
	return byLabel.Matches(labels.Set(m.GetLabels())) && byField.Matches(has)
}

func versionOf(o runtime.Object) schema.GroupVersion {
	switch name := fmt.Sprintf("%T", o); {
	case strings.Contains(name, "EndpointSlice"):
		return schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}
	case strings.Contains(name, "ClusterNetworkPolicy"):
		return policyVersion
	case strings.Contains(name, "NetworkPolicy"):
		return schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}
	}
	return coreVersion
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	info, contentType, partial := s.media(r)
	q := r.URL.Query()
	s.mu.Lock()
	keys := slices.Sorted(maps.Keys(s.objects[r.URL.Path]))
	from, _ := strconv.Atoi(cmp.Or(q.Get("continue"), "0"))
	limit, _ := strconv.Atoi(cmp.Or(q.Get("limit"), "0"))
	to := len(keys)
	list := metav1.ListMeta{ResourceVersion: strconv.Itoa(s.version)}
	if limit > 0 && from+limit < to {
		to = from + limit
		list.Continue = strconv.Itoa(to)
	}
	var objects []runtime.Object
	for _, key := range keys[min(from, to):to] {
		if o := s.objects[r.URL.Path][key]; selected(o, q) {
			objects = append(objects, o)
		}
	}
	s.mu.Unlock()

	out := s.emptyList(r.URL.Path, partial)
	gv := versionOf(out)
	if partial {
		gv = metav1.SchemeGroupVersion
	}
	items := make([]runtime.Object, len(objects))
	for i, o := range objects {
		items[i], _ = shown(o, partial)
	}
	if err := meta.SetList(out, items); err != nil {
		panic(err)
	}
	m, _ := meta.ListAccessor(out)
	m.SetResourceVersion(list.ResourceVersion)
	m.SetContinue(list.Continue)
	var b bytes.Buffer
	if err := s.codecs.EncoderForVersion(info.Serializer, gv).Encode(out, &b); err != nil {
		panic(err)
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(b.Bytes())
}

func (s *server) emptyList(path string, partial bool) runtime.Object {
	if partial {
		return &metav1.PartialObjectMetadataList{}
	}
	return emptyLists[path[strings.LastIndexByte(path, '/')+1:]]()
}

func (s *server) watch(w http.ResponseWriter, r *http.Request) {
	info, contentType, partial := s.media(r)
	q := r.URL.Query()
	path := r.URL.Path
	s.mu.Lock()
	defer s.mu.Unlock()
	at, _ := strconv.Atoi(cmp.Or(q.Get("resourceVersion"), "0"))
	initial := q.Get("sendInitialEvents") == "true"
	switch {
	case initial && !s.streams:
		s.status(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
		return
	case !initial && at < max(s.compacted, s.forgotten[path]), at > s.version:
		s.status(w, http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
		return
	}
	w.Header().Set("Content-Type", contentType+";stream=watch")
	w.WriteHeader(http.StatusOK)
	frames := info.StreamSerializer.Framer.NewFrameWriter(w)
	stream := streaming.NewEncoder(frames, s.codecs.EncoderForVersion(info.StreamSerializer.Serializer, coreVersion))
	send := func(kind watch.EventType, o runtime.Object) bool {
		o, gv := shown(o, partial)
		raw, err := runtime.Encode(s.codecs.EncoderForVersion(info.Serializer, gv), o)
		if err != nil {
			panic(err)
		}
		err = stream.Encode(&metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: raw}})
		return err == nil
	}
	flush := w.(http.Flusher).Flush
	cuts := s.cuts
	if initial {
		for _, key := range slices.Sorted(maps.Keys(s.objects[path])) {
			if o := s.objects[path][key]; selected(o, q) && !send(watch.Added, o) {
				return
			}
		}
		at = s.version
		end := s.bookmark(path)
		m, _ := meta.Accessor(end)
		m.SetResourceVersion(strconv.Itoa(at))
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
		send(watch.Bookmark, end)
	}
	flush()
	stop := context.AfterFunc(r.Context(), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	for {
		if r.Context().Err() != nil {
			return
		}
		if s.cuts != cuts {
			panic(http.ErrAbortHandler)
		}
		// What stands there does not change, so others need not wait for a slow
		// client.
		all := s.history[path]
		first, _ := slices.BinarySearchFunc(all, at+1, func(c change, version int) int { return cmp.Compare(c.version, version) })
		if news := all[first:]; len(news) > 0 {
			at = news[len(news)-1].version
			s.mu.Unlock()
			ok := true
			for _, c := range news {
				ok = ok && (!selected(c.object, q) || send(c.kind, c.object))
			}
			if ok {
				flush()
			}
			s.mu.Lock()
			if !ok {
				return
			}
			continue
		}
		s.changed.Wait()
	}
}

// bookmark is an object of the kind that a path has.
func (s *server) bookmark(path string) runtime.Object {
	list := s.emptyList(path, false)
	items, err := meta.GetItemsPtr(list)
	if err != nil {
		panic(err)
	}
	return newItem(items)
}
