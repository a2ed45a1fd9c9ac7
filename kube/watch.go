package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"warren/cluster"
)

// Options say what is watched.
type Options struct {
	// Node is the node of this agent: the containers of its pods are kept. ""
	// keeps no pod's containers.
	Node string
	// OwnPodsOnly watches the pods of Node only: less load for the API server,
	// but pods elsewhere have no names.
	OwnPodsOnly bool
	// Policies are watched too, "networkpolicies" and "clusternetworkpolicies",
	// and pods keep their named ports. That a cluster does not know the second
	// kind is no mistake.
	Policies bool
	// Enforce says that nothing is complete without policies and namespaces: who
	// enforces must not begin with a part of them.
	Enforce bool
	// Report writes into the status of ClusterNetworkPolicies how they were
	// understood. It wants Node.
	Report bool
	// Only names the resources that are watched: of "pods", "services",
	// "endpointslices", "namespaces", "nodes", "replicasets", "jobs". Empty is all.
	Only []string
}

// pageSize is how many objects of a list are asked for at once. A page is all
// that is ever in memory as API objects: about 10 MB for pods.
const pageSize = 500

// Watch fills the State until ctx ends, which is the only reason for it to
// return. While the server is away nothing that is known changes, and it is
// tried again for ever, every half minute at the latest. The logger hears when
// that begins and when it ends.
//
// Servers that stream lists do; others are asked for pages.
func (c *Client) Watch(ctx context.Context, st *cluster.State, o Options, log *slog.Logger) error {
	w := &watcher{client: c, log: log, state: st}
	var watched []*resource
	all := resources(st, o)
	for _, name := range o.Only {
		if !slices.ContainsFunc(all, func(r *resource) bool { return r.name == name }) {
			return fmt.Errorf("watch %s: no such resource", name)
		}
	}
	for _, r := range all {
		if len(o.Only) == 0 || slices.Contains(o.Only, r.name) {
			st.Expect(r.name)
			watched = append(watched, r)
		}
	}
	c.meter.listen(func(connected bool, err error) {
		if connected {
			log.Info("the cluster's API server answers", "server", c.meter.server)
		} else {
			log.Warn("the cluster's API server cannot be asked: what is known stays as it is", "server", c.meter.server, "err", err)
		}
	})
	defer c.meter.listen(nil)
	var running sync.WaitGroup
	for _, r := range watched {
		if o.Report && r.extension {
			reporter := newReporter(c, st, o.Node, r.path, log)
			reporter.reports(r)
			running.Go(func() { reporter.run(ctx) })
		}
	}
	for _, r := range watched {
		running.Go(func() { w.run(ctx, r) })
	}
	running.Wait()
	return ctx.Err()
}

// watcher keeps resources in a State.
type watcher struct {
	client *Client
	log    *slog.Logger
	state  *cluster.State
}

// run keeps one resource.
func (w *watcher) run(ctx context.Context, r *resource) {
	refused := false // and said
	s := &store{resource: r, counter: w.client.meter.of(r.name), known: make(map[string]bool), now: time.Now}
	s.synced = func() {
		w.state.SetSynced(r.name)
		if refused {
			refused = false
			w.log.Info("a resource of the cluster is watched again", "resource", r.name)
		}
	}
	w.client.reflect(ctx, r, s, w.log, func(err error) {
		switch {
		case r.extension && apierrors.IsNotFound(err) && w.client.lacks(ctx, r):
			w.client.meter.of(r.name).failed(errAbsent, time.Now())
			s.nothing()
			return // quietly: it may come any time, or never
		case r.optional && (apierrors.IsForbidden(err) || apierrors.IsNotFound(err)):
			w.state.SetSynced(r.name) // nobody will ever tell it
			if r.quiet {
				return
			}
		}
		// That the server is away is said once, for all resources.
		if !refused && w.client.meter.isConnected() {
			refused = true
			w.log.Warn("a resource of the cluster cannot be watched", "resource", r.name, "err", err)
		}
	})
}

// errAbsent is in the Stats of a resource that the cluster does not know.
var errAbsent = errors.New("the cluster has no such resource: its definition is not installed; it is looked for again")

// lacks asks whether the server, which did not find a resource, does not know
// of it. Only who knows the API's own groups is believed: what answers in a
// server's place knows nothing, and policies must not go because of that.
func (c *Client) lacks(ctx context.Context, r *resource) bool {
	ctx, cancel := context.WithTimeout(asking(ctx, "discovery"), lacksTime)
	defer cancel()
	answer, err := c.rest.Get().AbsPath("/apis").Do(ctx).Get()
	groups, ok := answer.(*metav1.APIGroupList)
	if err != nil || !ok || !hasVersion(groups, "apps/v1") {
		return false
	}
	group := strings.TrimPrefix(path.Dir(r.path), "/apis/")
	if !hasVersion(groups, group) {
		return true
	}
	answer, err = c.rest.Get().AbsPath(path.Dir(r.path)).Do(ctx).Get()
	list, ok := answer.(*metav1.APIResourceList)
	if err != nil || !ok || list.GroupVersion != group {
		return false
	}
	return !slices.ContainsFunc(list.APIResources, func(a metav1.APIResource) bool { return a.Name == r.name })
}

const lacksTime = 10 * time.Second

func hasVersion(groups *metav1.APIGroupList, version string) bool {
	for i := range groups.Groups {
		for _, v := range groups.Groups[i].Versions {
			if v.GroupVersion == version {
				return true
			}
		}
	}
	return false
}

// reflect lists and watches a resource into a store until ctx ends.
func (c *Client) reflect(ctx context.Context, r *resource, s cache.ReflectorStore, log *slog.Logger, failed func(error)) {
	ctx = asking(ctx, r.name)
	logger := logr.FromSlogHandler(demoted{log.Handler()})
	ctx = klog.NewContext(ctx, logger)
	retry := c.retry
	reflector := cache.NewReflectorWithOptions(c.listWatch(r, c.meter.of(r.name)), &item{}, s, cache.ReflectorOptions{
		Logger: &logger, Name: r.name, TypeDescription: r.name, Backoff: &retry,
	})
	reflector.WatchListPageSize = pageSize
	wait := c.retry
	for ctx.Err() == nil {
		began := time.Now()
		err := reflector.ListAndWatchWithContext(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
			// The server has forgotten where this was: all is read again.
		case err != nil:
			c.meter.of(r.name).failed(err, time.Now())
			failed(err)
		}
		if time.Since(began) > time.Minute {
			wait = c.retry // it went well for a while
		}
		if !sleep(ctx, wait.Step()) {
			return
		}
	}
}

// listWatch asks for a resource, and strips what comes before anybody keeps it.
func (c *Client) listWatch(r *resource, count *counter) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			if o.ResourceVersion == "0" {
				o.ResourceVersion = "" // whatever is cached comes in one piece, and not in pages
			}
			list, err := c.request(r, o).Do(ctx).Get()
			if err != nil {
				return nil, err
			}
			page, err := r.items(list)
			if err != nil {
				return nil, err
			}
			count.objects.Add(uint64(len(page.Items)))
			return page, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.Watch = true
			events, err := c.watch(ctx, r, o)
			if err != nil {
				return nil, err
			}
			return watch.Filter(events, func(e watch.Event) (watch.Event, bool) { return r.event(e, count) }), nil
		},
	}
}

// request asks for a resource, or for the metadata of it.
func (c *Client) request(r *resource, o metav1.ListOptions) *rest.Request {
	o.FieldSelector, o.LabelSelector = r.fields, r.labels
	request := c.rest.Get().AbsPath(r.path).SpecificallyVersionedParams(&o, c.params, coreVersion)
	if r.metadata {
		as := ";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
		if o.Watch {
			as = ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
		}
		request.SetHeader("Accept", runtime.ContentTypeProtobuf+as+","+runtime.ContentTypeJSON+as)
	}
	return request
}

// watch begins a watch. One that goes on from where another was cut waits for a
// server that is away as long as that takes: then it need not read all again,
// nor have a thousand agents do so at the moment at which their server is back.
func (c *Client) watch(ctx context.Context, r *resource, o metav1.ListOptions) (watch.Interface, error) {
	goesOn := o.SendInitialEvents == nil
	retry := c.retry
	for {
		events, err := c.request(r, o).Watch(ctx)
		var answer apierrors.APIStatus
		if err == nil || !goesOn || errors.As(err, &answer) && answer.Status().Code < http.StatusInternalServerError {
			return events, err
		}
		if !sleep(ctx, retry.Step()) {
			return nil, ctx.Err()
		}
	}
}

// sleep is false where ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	pause := time.NewTimer(d)
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-pause.C:
		return true
	}
}

// event strips one event. One of which nothing is kept still moves the place
// from which a watch goes on.
func (r *resource) event(e watch.Event, count *counter) (watch.Event, bool) {
	if e.Type == watch.Error {
		err := apierrors.FromObject(e.Object)
		if apierrors.HasStatusCause(err, brokenStream) {
			// The stream was cut, and ends here. As with one that was ended well,
			// the next goes on from there; if that comes to nothing either, the
			// reflector reads all again.
			count.failed(err, time.Now())
			return e, false
		}
		return e, true
	}
	i := r.item(e.Object)
	if i == nil {
		return e, false
	}
	if e.Type == watch.Bookmark {
		if p, ok := e.Object.(metav1.ObjectMetaAccessor); ok {
			i.annotations = p.GetObjectMeta().GetAnnotations()
		}
		i.key, i.value = "", nil
	} else {
		count.events.Add(1)
	}
	return watch.Event{Type: e.Type, Object: i}, true
}

// brokenStream is how client-go marks what it could not read of a watch.
const brokenStream = "ClientWatchDecoding"

// store is where a reflector puts what it is told. Only its goroutine calls it.
type store struct {
	resource *resource
	counter  *counter
	known    map[string]bool // keys told and not gone; a pod's shares its memory with the State
	now      func() time.Time
	synced   func() // all there is was told
	after    func() // something was told, not before all was; or nil
}

// Add implements cache.ReflectorStore.
func (s *store) Add(o any) error {
	if i, ok := o.(*item); ok && i.key != "" {
		s.set(i)
	}
	s.told()
	return nil
}

// Update implements cache.ReflectorStore.
func (s *store) Update(o any) error { return s.Add(o) }

// Delete implements cache.ReflectorStore.
func (s *store) Delete(o any) error {
	if i, ok := o.(*item); ok && i.key != "" {
		delete(s.known, i.key)
		s.resource.gone(i.key, i.value, s.now())
	}
	s.told()
	return nil
}

// Replace implements cache.ReflectorStore: all there is. What is new comes
// before what is gone, so that an address goes from one to the other at the
// time at which the new one began.
func (s *store) Replace(list []any, _ string) error {
	s.counter.lists.Add(1)
	before := s.known
	s.known = make(map[string]bool, len(list))
	for _, o := range list {
		if i, ok := o.(*item); ok && i.key != "" {
			s.set(i)
		}
	}
	for key := range before {
		if !s.known[key] {
			s.resource.gone(key, nil, s.now())
		}
	}
	s.synced()
	s.told()
	return nil
}

// nothing is told where there is none of the resource.
func (s *store) nothing() {
	for key := range s.known {
		s.resource.gone(key, nil, s.now())
	}
	clear(s.known)
	s.synced()
	s.told()
}

func (s *store) told() {
	if s.after != nil {
		s.after()
	}
}

func (s *store) set(i *item) {
	if i.value == nil {
		if s.known[i.key] {
			delete(s.known, i.key)
			s.resource.gone(i.key, nil, s.now())
		}
		return
	}
	s.known[i.key] = true
	s.resource.set(i.key, i.value, s.now())
}

// Resync implements cache.ReflectorStore.
func (s *store) Resync() error { return nil }

// demoted is a handler for client-go's log: what it tells is for us. What
// people are to know is said by the watcher.
type demoted struct{ slog.Handler }

// Enabled implements slog.Handler.
func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

// Handle implements slog.Handler.
func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = min(r.Level, slog.LevelDebug)
	return d.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (d demoted) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoted{d.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (d demoted) WithGroup(name string) slog.Handler { return demoted{d.Handler.WithGroup(name)} }
