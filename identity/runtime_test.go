package identity

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"warren/event"
)

// dockerInspect is what Docker 27 answers, what is not used left out;
// podmanInspect what podman 4.3 does.
const (
	dockerInspect = `{
  "Id": "ID", "Created": "2026-03-01T10:00:00.1Z", "Path": "nginx", "Args": ["-g", "daemon off;"],
  "State": {"Status": "running", "Running": true, "Pid": 4711, "StartedAt": "2026-03-01T10:00:01.5Z", "FinishedAt": "0001-01-01T00:00:00Z"},
  "Image": "sha256:a72860cb95fd59e9c696c66441c64f18e66915fa26b249911e83c3854477ed9a",
  "Name": "/shop-web-1", "RestartCount": 0,
  "HostConfig": {"NetworkMode": "default", "Privileged": true, "CgroupnsMode": "private"},
  "Config": {"Hostname": "x", "Image": "registry.example:5000/team/nginx:1.27", "Labels": {"com.docker.compose.service": "web", "maintainer": "ann"}}
}`
	dockerImageInspect = `{
  "Id": "sha256:a72860cb95fd59e9c696c66441c64f18e66915fa26b249911e83c3854477ed9a", "RepoTags": ["nginx:1.27", "registry.example:5000/team/nginx:1.27"],
  "RepoDigests": ["nginx@sha256:1111111111111111111111111111111111111111111111111111111111111111", "registry.example:5000/team/nginx@sha256:2222222222222222222222222222222222222222222222222222222222222222"]
}`
	podmanInspect = `{
  "Id": "ID", "Created": "2026-11-20T21:43:29.014605772Z", "State": {"Status": "created", "Running": false, "Pid": 0, "StartedAt": "0001-01-01T00:00:00Z"},
  "Image": "sha256:79cd389185cae8f1bf79fdb126981a01556d1917cfc9e4a9e54fac8cf5c435b3", "Name": "/webby",
  "HostConfig": {"Privileged": false}, "Config": {"Image": "localhost/busy:v1", "Labels": {"app": "shop"}}
}`
	podmanStarted = `"StartedAt": "2026-11-20T21:43:29.672268722Z"`
	notFound      = `{"cause":"no such container","message":"no container with name or ID found: no such container","response":404}`
)

// serveHTTP answers at a socket until the test ends.
func serveHTTP(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "api.sock")
	serveHTTPAt(t, socket, h)
	return socket
}

func serveHTTPAt(t testing.TB, socket string, h http.HandlerFunc) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	must(t, err)
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
}

// reply answers the paths of a map; what is not there is not found.
func reply(paths map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, ok := paths[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			body = notFound
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(body))
	}
}

// notEarly fails where a part of an answer is told that is not slow.
func notEarly(t *testing.T) func(*Description) {
	return func(d *Description) { t.Logf("the full answer took long: early %+v", d) }
}

// A runtime that is starting a container answers in full only afterwards.
func TestAskWhileTheContainerIsLocked(t *testing.T) {
	id := id64(1)
	for _, tt := range []struct {
		name  string
		ask   client
		paths map[string]string
		want  *Description
	}{
		{"docker", askDocker, map[string]string{
			"/containers/json": `[{"Id":"` + id + `","Names":["/web"],"Image":"nginx:1.27","ImageID":"sha256:1","Labels":{"app":"shop"},"State":"created"}]`,
		}, &Description{Runtime: "docker", Name: "web", Image: "nginx:1.27", ImageID: "sha256:1", Labels: map[string]string{"app": "shop"}}},
		{"podman", askPodman, map[string]string{
			"/events": `{"status":"pull","id":"x","Type":"image","Actor":{"ID":"x","Attributes":{"name":"other"}}}` + "\n" +
				`{"status":"create","id":"` + id + `","from":"localhost/busy:v1","Type":"container","Action":"create","Actor":{"ID":"` + id + `","Attributes":{"app":"shop","containerExitCode":"0","image":"localhost/busy:v1","name":"web","podId":""}},"scope":"local","time":1795213107}` + "\n",
		}, &Description{Runtime: "podman", Name: "web", Image: "localhost/busy:v1", Labels: map[string]string{"app": "shop"}}},
		{"neither list nor record knows it", askDocker, map[string]string{"/containers/json": `[]`}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			locked := make(chan struct{})
			socket := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/containers/"+id+"/json" {
					<-locked
					_, _ = w.Write([]byte(dockerInspect))
					return
				}
				reply(tt.paths)(w, r)
				if tt.paths[r.URL.Path] == "" {
					return // the image
				}
				if !strings.Contains(r.URL.RawQuery, id) {
					t.Errorf("asked for %s", r.URL)
				}
				if tt.want == nil {
					close(locked)
				}
			})
			var part *Description
			full, err := tt.ask(t.Context(), socket, Place{ID: id}, func(d *Description) {
				part = d
				close(locked)
			})
			must(t, err)
			if diff := cmp.Diff(tt.want, part); diff != "" {
				t.Errorf("early (-want +got):\n%s", diff)
			}
			if full.Name != "shop-web-1" || !full.Privileged {
				t.Errorf("in full: %+v", full)
			}
		})
	}
}

func TestAskDocker(t *testing.T) {
	id := id64(1)
	place := Place{Runtime: "docker", ID: id}
	socket := serveHTTP(t, reply(map[string]string{
		"/containers/" + id + "/json": strings.ReplaceAll(dockerInspect, "ID", id),
		"/images/sha256:a72860cb95fd59e9c696c66441c64f18e66915fa26b249911e83c3854477ed9a/json": dockerImageInspect,
		"/containers/" + id64(2) + "/json":    "{not json",
		"/containers/" + id64(3) + "/json":    `{"Name":"/byid","Image":"sha256:` + id64(9) + `","Config":{"Image":"` + id64(9) + `"}}`,
		"/images/sha256:" + id64(9) + "/json": `{"RepoTags":["tagged:v3"]}`,
	}))
	got, err := askDocker(t.Context(), socket, place, notEarly(t))
	must(t, err)
	want := &Description{
		Runtime: "docker", Name: "shop-web-1", Image: "registry.example:5000/team/nginx:1.27",
		ImageID:     "sha256:a72860cb95fd59e9c696c66441c64f18e66915fa26b249911e83c3854477ed9a",
		ImageDigest: "sha256:2222222222222222222222222222222222222222222222222222222222222222",
		Labels:      map[string]string{"com.docker.compose.service": "web", "maintainer": "ann"},
		Started:     time.Date(2026, 3, 1, 10, 0, 1, 5e8, time.UTC), Privileged: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := askDocker(t.Context(), socket, Place{ID: id64(7)}, notEarly(t)); !errors.Is(err, errNoContainer) {
		t.Errorf("unknown: %v", err)
	}
	if _, err := askDocker(t.Context(), socket, Place{ID: id64(2)}, notEarly(t)); err == nil || errors.Is(err, errNoContainer) {
		t.Errorf("malformed: %v", err)
	}
	if d, err := askDocker(t.Context(), socket, Place{ID: id64(3)}, notEarly(t)); err != nil || d.Image != "tagged:v3" {
		t.Errorf("an image asked for by its id: %+v, %v", d, err)
	}
	if _, err := askDocker(t.Context(), filepath.Join(t.TempDir(), "none"), place, notEarly(t)); err == nil {
		t.Error("nobody there, and no error")
	}
}

func TestAskPodman(t *testing.T) {
	id := id64(1)
	socket := serveHTTP(t, reply(map[string]string{"/containers/" + id + "/json": podmanInspect}))
	got, err := askPodman(t.Context(), socket, Place{ID: id}, notEarly(t))
	must(t, err)
	want := &Description{
		Runtime: "podman", Name: "webby", Image: "localhost/busy:v1", Labels: map[string]string{"app": "shop"},
		ImageID: "sha256:79cd389185cae8f1bf79fdb126981a01556d1917cfc9e4a9e54fac8cf5c435b3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A runtime that answers without end, or not at all.
func TestAskHostileRuntime(t *testing.T) {
	endless := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write([]byte(strings.Repeat(" ", 1<<16))); err != nil {
				return
			}
		}
	})
	if _, err := askDocker(t.Context(), endless, Place{ID: "x"}, func(*Description) {}); err == nil {
		t.Error("an endless answer was taken")
	}
	silent := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := askDocker(ctx, silent, Place{ID: "x"}, func(*Description) {}); err == nil {
		t.Error("silence was taken for an answer")
	}
}

// serveGRPC answers at a socket until the test ends.
func serveGRPC(t testing.TB, register func(*grpc.Server)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "grpc.sock")
	l, err := net.Listen("unix", socket)
	must(t, err)
	s := grpc.NewServer()
	register(s)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return socket
}

type fakeNamespaces struct {
	namespacesapi.UnimplementedNamespacesServer
	list []string
}

func (f *fakeNamespaces) List(context.Context, *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	r := &namespacesapi.ListNamespacesResponse{}
	for _, n := range f.list {
		r.Namespaces = append(r.Namespaces, &namespacesapi.Namespace{Name: n})
	}
	return r, nil
}

// fakeContainers are known by namespace and id.
type fakeContainers struct {
	containersapi.UnimplementedContainersServer
	m map[string]*containersapi.Container
}

func namespaceOfCall(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	return strings.Join(md.Get("containerd-namespace"), ",")
}

func (f *fakeContainers) Get(ctx context.Context, r *containersapi.GetContainerRequest) (*containersapi.GetContainerResponse, error) {
	c := f.m[namespaceOfCall(ctx)+"/"+r.ID]
	if c == nil {
		return nil, status.Errorf(codes.NotFound, "container %q in namespace %q: not found", r.ID, namespaceOfCall(ctx))
	}
	return &containersapi.GetContainerResponse{Container: c}, nil
}

type fakeImages struct {
	imagesapi.UnimplementedImagesServer
}

func (fakeImages) Get(_ context.Context, r *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	if r.Name == "gone:v1" {
		return nil, status.Error(codes.NotFound, "image not found")
	}
	return &imagesapi.GetImageResponse{Image: &imagesapi.Image{Name: r.Name, Target: &types.Descriptor{Digest: "sha256:" + id64(5)}}}, nil
}

const (
	plainSpec      = `{"process":{"capabilities":{"bounding":["CAP_CHOWN"]}},"linux":{"maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],"resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}]}}}`
	privilegedJSON = `{"process":{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"]}},"linux":{"resources":{"devices":[{"allow":true,"access":"rwm"}]}}}`
)

func TestAskContainerd(t *testing.T) {
	created := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	m := map[string]*containersapi.Container{
		"default/web": {ID: "web", Image: "localhost:5000/busy:v1", Labels: map[string]string{"app": "shop"}, CreatedAt: timestamppb.New(created),
			Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(plainSpec)}},
		"k8s.io/" + id64(1): {ID: id64(1), Image: "gone:v1", Sandbox: id64(9), Spec: &anypb.Any{Value: []byte(privilegedJSON)},
			Labels: map[string]string{"io.kubernetes.container.name": "app", "io.kubernetes.pod.uid": "u"}},
		"k8s.io/" + id64(9): {ID: id64(9), Labels: map[string]string{"io.cri-containerd.kind": "sandbox"},
			Spec: &anypb.Any{Value: []byte(`{"annotations":{"io.kubernetes.cri.sandbox-id":"` + id64(9) + `"}}`)}},
		"private/" + id64(2): {ID: id64(2)},
		"default/" + id64(3): {ID: id64(3), Labels: map[string]string{"nerdctl/name": "named"}, Spec: &anypb.Any{Value: []byte("\x00")}},
	}
	socket := serveGRPC(t, func(s *grpc.Server) {
		containersapi.RegisterContainersServer(s, &fakeContainers{m: m})
		namespacesapi.RegisterNamespacesServer(s, &fakeNamespaces{list: []string{"default", "k8s.io", "private"}})
		imagesapi.RegisterImagesServer(s, fakeImages{})
	})
	digest := "sha256:" + id64(5)
	for _, tt := range []struct {
		name  string
		place Place
		want  *Description
	}{
		{"ctr", Place{ID: "web", Namespace: "default"}, &Description{
			Runtime: "containerd", Name: "web", Image: "localhost:5000/busy:v1", ImageDigest: digest, Labels: map[string]string{"app": "shop"}, Started: created}},
		{"kubernetes, the image gone", Place{ID: id64(1)}, &Description{
			Runtime: "containerd", Name: "app", Image: "gone:v1", Privileged: true, Kubernetes: true, Sandbox: id64(9),
			Labels: map[string]string{"io.kubernetes.container.name": "app", "io.kubernetes.pod.uid": "u"}}},
		{"kubernetes, the sandbox", Place{ID: id64(9)}, &Description{
			Runtime: "containerd", Name: "POD", Kubernetes: true, Sandbox: id64(9), Labels: map[string]string{"io.cri-containerd.kind": "sandbox"}}},
		{"another namespace", Place{ID: id64(2)}, &Description{Runtime: "containerd", Name: id64(2)}},
		{"nerdctl", Place{ID: id64(3), Namespace: "default"}, &Description{Runtime: "containerd", Name: "named", Labels: map[string]string{"nerdctl/name": "named"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := askContainerd(t.Context(), socket, tt.place, nil)
			must(t, err)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := askContainerd(t.Context(), socket, Place{ID: "none"}, nil); !errors.Is(err, errNoContainer) {
		t.Errorf("unknown: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := askContainerd(ctx, filepath.Join(t.TempDir(), "none"), Place{ID: "x"}, nil); err == nil || errors.Is(err, errNoContainer) {
		t.Errorf("nobody there: %v", err)
	}
}

type fakeCRI struct {
	cri.UnimplementedRuntimeServiceServer
	containers map[string]*cri.ContainerStatusResponse
	pods       map[string]*cri.PodSandboxStatusResponse
}

func (f *fakeCRI) ContainerStatus(_ context.Context, r *cri.ContainerStatusRequest) (*cri.ContainerStatusResponse, error) {
	if c := f.containers[r.ContainerId]; c != nil && r.Verbose {
		return c, nil
	}
	return nil, status.Error(codes.NotFound, "container with ID starting with x not found")
}

func (f *fakeCRI) PodSandboxStatus(_ context.Context, r *cri.PodSandboxStatusRequest) (*cri.PodSandboxStatusResponse, error) {
	if c := f.pods[r.PodSandboxId]; c != nil {
		return c, nil
	}
	return nil, status.Error(codes.NotFound, "pod not found")
}

func TestAskCRI(t *testing.T) {
	started := time.Date(2026, 3, 1, 10, 0, 0, 5, time.UTC)
	labels := map[string]string{"io.kubernetes.pod.name": "shop-1", "io.kubernetes.pod.namespace": "shop"}
	f := &fakeCRI{
		containers: map[string]*cri.ContainerStatusResponse{id64(1): {
			Status: &cri.ContainerStatus{
				Id: id64(1), Metadata: &cri.ContainerMetadata{Name: "web"}, StartedAt: started.UnixNano(), Labels: labels,
				Image:    &cri.ImageSpec{Image: "quay.io/team/web@sha256:" + id64(4), UserSpecifiedImage: "quay.io/team/web:v1"},
				ImageRef: "quay.io/team/web@sha256:" + id64(4), ImageId: id64(6),
			},
			Info: map[string]string{"info": `{"sandboxID":"x","pid":12,"privileged":true,"runtimeSpec":{}}`},
		}},
		pods: map[string]*cri.PodSandboxStatusResponse{id64(2): {Status: &cri.PodSandboxStatus{CreatedAt: started.UnixNano(), Labels: labels}}},
	}
	socket := serveGRPC(t, func(s *grpc.Server) { cri.RegisterRuntimeServiceServer(s, f) })
	for id, want := range map[string]*Description{
		id64(1): {Runtime: "cri-o", Name: "web", Image: "quay.io/team/web:v1", ImageID: id64(6), ImageDigest: "sha256:" + id64(4), Labels: labels, Started: started, Privileged: true, Kubernetes: true, Sandbox: "x"},
		id64(2): {Runtime: "cri-o", Name: "POD", Labels: labels, Started: started, Kubernetes: true, Sandbox: id64(2)},
	} {
		got, err := askCRI(t.Context(), socket, Place{ID: id}, nil)
		must(t, err)
		if got.Started.Equal(want.Started) {
			got.Started = want.Started
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if _, err := askCRI(t.Context(), socket, Place{ID: "none"}, nil); !errors.Is(err, errNoContainer) {
		t.Errorf("unknown: %v", err)
	}
}

func FuzzPrivilegedSpec(f *testing.F) {
	f.Add([]byte(plainSpec))
	f.Add([]byte(privilegedJSON))
	f.Fuzz(func(t *testing.T, data []byte) {
		if parseSpec(data).privileged() && !json.Valid(data) {
			t.Errorf("%q is privileged", data)
		}
	})
}

func TestReplaceUID(t *testing.T) {
	for in, want := range map[string]string{
		"/run/user/UID/podman/podman.sock": "/run/user/1000/podman/podman.sock",
		"/UIDS/UID":                        "/UIDS/1000",
		"/run/podman.sock":                 "/run/podman.sock",
	} {
		if got := replaceUID(in, "1000"); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// run starts the goroutines of Run and ends them with the test.
func (m *machine) run() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("run: %v", err)
		}
	})
}

// await waits until ok holds, looking whenever something got described.
func (m *machine) await(what string, ok func() bool) {
	m.t.Helper()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-m.Described():
		case <-limit:
			m.t.Fatalf("%s did not come: %+v", what, m.Stats())
		}
	}
}

// The way of a container's first exec: it waits for the description, and
// everybody who belongs to the container gets it.
func TestFirstExecIsAttributed(t *testing.T) {
	id := id64(1)
	var asked atomic.Int32
	var body atomic.Pointer[string]
	first := strings.ReplaceAll(podmanInspect, "ID", id)
	body.Store(&first)
	socket := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/containers/"+id+"/json" || asked.Add(1) < 4 {
			reply(nil)(w, r) // not made yet
			return
		}
		_, _ = w.Write([]byte(*body.Load()))
	})
	m := newMachine(t, func(c *Config) { c.Sockets.Podman = []string{socket} })
	init := m.task(1, event.Key{}, "init")
	conmon, _ := m.fork(init, 50, m.cgroup(5, "/machine.slice/libpod-conmon-"+id+".scope"))
	k, e := m.fork(conmon, 100, m.cgroup(7, "/machine.slice/libpod-"+id+".scope/container"))
	if m.Process(conmon).Container != nil {
		t.Error("conmon is in the container")
	}
	ex := m.exec(k, nil, "/bin/true")
	gone := m.exit(k, 0)
	child, _ := m.fork(k, 101)
	u := m.apply(child, nil, conn("connect", 1, "1.1.1.1:1", "2.2.2.2:2"))
	for _, e := range []*event.Event{e, ex, gone, u} {
		c := e.Process.Container
		if c == nil || c.FullID != id || c.ID != id[:12] || c.Type != "podman" || !c.Pending || c.Name != "" {
			t.Errorf("%T before: %+v", e.Data, c)
		}
		if !m.Pending(e) {
			t.Errorf("%T does not wait", e.Data)
		}
	}
	if s := m.Stats(); s.Pending != 1 {
		t.Errorf("%d containers pending", s.Pending)
	}

	m.run()
	m.await("the description", func() bool { return !m.Pending(ex) })
	before := e.Process
	for _, e := range []*event.Event{e, ex, gone, u} {
		p := e.Process
		m.Resolve(e, false)
		c := e.Process.Container
		if c.Pending || c.Name != "webby" || c.ImageRepo != "localhost/busy" || c.ImageTag != "v1" || c.Labels["app"] != "shop" || c.ID != id[:12] {
			t.Errorf("%T after: %+v", e.Data, c)
		}
		if !p.Container.Pending {
			t.Errorf("%T: a snapshot changed after it was told", e.Data)
		}
		if e.Process.Name != p.Name || e.Process.Exited != p.Exited || e.Process.Parent != p.Parent {
			t.Errorf("%T: more than the container changed", e.Data)
		}
	}
	if before.Container.Name != "" {
		t.Error("the first snapshot changed")
	}
	for _, key := range []event.Key{k, child} { // ended and living
		if c := m.Process(key).Container; c.Name != "webby" {
			t.Errorf("table, %d: %+v", key.PID, c)
		}
	}
	if rows := m.rows(); rows[0].Process.Container.Name != "webby" {
		t.Errorf("row: %+v", rows[0].Process.Container)
	}
	if n := asked.Load(); n < 4 {
		t.Errorf("asked %d times", n)
	}

	// Its start is told as soon as it has started.
	second := strings.ReplaceAll(first, `"StartedAt": "0001-01-01T00:00:00Z"`, podmanStarted)
	body.Store(&second)
	m.await("the start", func() bool { return !m.Process(child).Container.StartTime.IsZero() })
	m.check()
}

// The description can come before the names of users: both are waited for.
func TestUsersComeAfterDescription(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.Sockets.Docker = []string{serveHTTP(t, reply(nil))} })
	k, _ := m.fork(event.Key{}, 100, m.cgroup(7, "/docker/"+id64(1)))
	e := m.exec(k, func(p *event.Process) { p.MntNS, p.UID = 5, 1234 }, "/bin/x")
	task := <-m.users.queue
	m.describedAs(<-m.describer.queue, &Description{Name: "web", Started: m.now()})
	if !m.Pending(e) {
		t.Error("the names of users are not waited for")
	}
	m.usersRead(task, &accounts{users: map[uint32]account{1234: {name: "app"}}})
	if m.Pending(e) {
		t.Error("it waits for more")
	}
	m.Resolve(e, false)
	if e.Process.UserName != "app" || e.Process.Container.Name != "web" {
		t.Errorf("%q in %+v", e.Process.UserName, e.Process.Container)
	}
	// They are waited for no longer than usersWait.
	e = m.exec(k, func(p *event.Process) { p.MntNS, p.UID = 6, 1234 }, "/bin/x")
	if !m.Pending(e) {
		t.Error("another mount namespace is not waited for")
	}
	m.tick(usersWait)
	if m.Pending(e) {
		t.Error("it waits for ever")
	}
	m.check()
}

// What is known early goes with the events, which stay marked.
func TestDescribedPartly(t *testing.T) {
	for _, above := range []string{"/docker", "/kubepods/pod" + cartUID} { // the runtime of the second is guessed, wrongly
		t.Run(above, func(t *testing.T) { testDescribedPartly(t, above) })
	}
}

func testDescribedPartly(t *testing.T, above string) {
	id := id64(1)
	locked := make(chan struct{})
	socket := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/containers/"+id+"/json" {
			<-locked
		}
		reply(map[string]string{
			"/containers/" + id + "/json": dockerInspect,
			"/containers/json":            `[{"Id":"` + id + `","Names":["/web"],"Image":"nginx:1.27","Labels":{"app":"shop"}}]`,
		})(w, r)
	})
	m := newMachine(t, func(c *Config) { c.Sockets.Docker = []string{socket} })
	m.run()
	k, e := m.fork(event.Key{}, 100, m.cgroup(7, above+"/"+id))
	later := m.exec(k, nil, "/bin/x")
	m.await("a part", func() bool { return m.Process(k).Container.Name == "web" })
	if !m.Pending(e) || !m.Pending(m.exec(k, nil, "/bin/y")) {
		t.Error("the rest is not waited for")
	}
	m.tick(time.Second)
	if m.Pending(e) {
		t.Error("it waits for ever")
	}
	m.Resolve(e, true)
	if c := e.Process.Container; !c.Pending || c.Name != "web" || c.ImageRepo != "nginx" || c.Labels["app"] != "shop" {
		t.Errorf("in part: %+v", c)
	}
	close(locked)
	m.await("the rest", func() bool { return !m.Process(k).Container.Pending })
	m.Resolve(later, true)
	for _, p := range []*event.Process{later.Process, m.Process(k)} {
		if c := p.Container; c.Pending || c.Name != "shop-web-1" || !c.Privileged {
			t.Errorf("in full: %+v", c)
		}
	}
	m.check()
}

func TestContainerThatNobodyKnows(t *testing.T) {
	socket := serveHTTP(t, reply(nil))
	m := newMachine(t, func(c *Config) {
		c.Sockets.Docker = []string{socket}
		c.DescribeFor = 30 * time.Millisecond
	})
	k, e := m.fork(event.Key{}, 100, m.cgroup(7, "/docker/"+id64(1)))
	if !m.Pending(e) || !e.Process.Container.Pending {
		t.Error("it is not asked for")
	}
	m.run() // not before: it soon gives up
	m.await("the end of patience", func() bool { return !m.Pending(e) })
	m.Resolve(e, false)
	if c := e.Process.Container; c.Pending || c.ID != id64(1)[:12] || c.Type != "docker" || c.Name != "" {
		t.Errorf("given up: %+v", c)
	}
	// The next event does not wait.
	if e := m.exec(k, nil, "/bin/x"); m.Pending(e) || e.Process.Container.Pending {
		t.Error("it waits again")
	}
}

// Events wait a bounded time, counted from the container's first.
func TestPendingEnds(t *testing.T) {
	socket := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	m := newMachine(t, func(c *Config) { c.Sockets.Docker = []string{socket} })
	m.run()
	k, e := m.fork(event.Key{}, 100, m.cgroup(7, "/docker/"+id64(1)))
	m.tick(499 * time.Millisecond)
	if !m.Pending(e) {
		t.Error("too early")
	}
	m.tick(2 * time.Millisecond)
	if m.Pending(e) || m.Pending(m.exec(k, nil, "/bin/x")) {
		t.Error("it waits for ever")
	}
	m.Resolve(e, true)
	if !e.Process.Container.Pending {
		t.Error("the event is not marked")
	}
}

func TestNoRuntimeNoWait(t *testing.T) {
	m := newMachine(t, nil)
	_, e := m.fork(event.Key{}, 100, m.cgroup(7, "/docker/"+id64(1)))
	want := &event.Container{FullID: id64(1), ID: id64(1)[:12], Type: "docker"}
	if diff := cmp.Diff(want, e.Process.Container); diff != "" || m.Pending(e) {
		t.Errorf("pending %v (-want +got):\n%s", m.Pending(e), diff)
	}
}

func TestWaitContainerOff(t *testing.T) {
	socket := serveHTTP(t, reply(map[string]string{"/containers/" + id64(1) + "/json": dockerInspect}))
	m := newMachine(t, func(c *Config) { c.Sockets.Docker, c.WaitContainer = []string{socket}, -1 })
	m.run()
	k, e := m.fork(event.Key{}, 100, m.cgroup(7, "/docker/"+id64(1)))
	if m.Pending(e) || e.Process.Container.Pending {
		t.Error("it waits")
	}
	m.await("the description", func() bool { return m.Process(k).Container.Name == "shop-web-1" })
}

// A runtime that comes up, goes, and comes back.
func TestRuntimeComesLater(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	m := newMachine(t, func(c *Config) { c.Sockets.Docker = []string{socket} })
	m.run()
	k, _ := m.fork(event.Key{}, 100, m.cgroup(7, "/docker/"+id64(1)))
	serveHTTPAt(t, socket, reply(map[string]string{"/containers/" + id64(1) + "/json": dockerInspect}))
	m.askAgain() // as the sweep does
	m.await("the description", func() bool { return m.Process(k).Container.Name == "shop-web-1" })

	must(t, os.Remove(socket))
	if _, e := m.fork(event.Key{}, 101, m.cgroup(8, "/docker/"+id64(2))); m.Pending(e) {
		t.Error("waits for a runtime that is gone")
	}
	m.check()
}

// Several runtimes may have made such a path; the one that knows it tells.
func TestGuessedRuntime(t *testing.T) {
	docker := serveHTTP(t, reply(map[string]string{"/containers/" + id64(1) + "/json": dockerInspect}))
	containerd := serveGRPC(t, func(s *grpc.Server) {
		containersapi.RegisterContainersServer(s, &fakeContainers{})
		namespacesapi.RegisterNamespacesServer(s, &fakeNamespaces{})
	})
	m := newMachine(t, func(c *Config) {
		c.Sockets.Docker, c.Sockets.Containerd = []string{docker}, []string{containerd}
	})
	k, e := m.fork(event.Key{}, 100, m.cgroup(7, "/kubepods/besteffort/pod8f3a1c9b7e5d2046af18c3b9d7e6f504/"+id64(1)))
	if e.Process.Container.Type != "containerd" {
		t.Errorf("before: %s", e.Process.Container.Type)
	}
	m.run() // not before: the answer can be there between the cgroup and its process
	m.await("the description", func() bool { return !m.Pending(e) })
	m.Resolve(e, false)
	for _, p := range []*event.Process{e.Process, m.Process(k)} {
		if c := p.Container; c.Type != "docker" || c.Name != "shop-web-1" || c.Pod == nil || c.Pod.UID != "8f3a1c9b7e5d2046af18c3b9d7e6f504" {
			t.Errorf("%+v", c)
		}
	}
}

// Containers and cgroups that nothing uses are forgotten.
func TestManyContainers(t *testing.T) {
	m := newMachine(t, func(c *Config) { c.MaxExited = 10 })
	init := m.task(1, event.Key{}, "init")
	stay, _ := m.fork(init, 9, m.cgroup(1<<40, "/docker/"+id64(0)))
	for n := range 60000 {
		m.tick(5 * time.Millisecond)
		k, _ := m.fork(init, uint32(10+n%1000), m.cgroup(uint64(n+1), "/docker/"+id64(n+1)))
		m.exit(k, 0)
	}
	s := m.Stats()
	if s.Containers > 2*minContainers || s.Cgroups > 2*cgroupsTold {
		t.Errorf("%d containers, %d cgroups", s.Containers, s.Cgroups)
	}
	// A container of which only the cgroup is told has its first process later,
	// whatever comes in between; in a storm without end none stays.
	last := event.CgroupKey{ID: 1 << 41}
	m.cgroup(last.ID, "/docker/"+id64(70000))
	for n := range 2 * minContainers {
		m.tick(time.Millisecond)
		m.cgroup(uint64(1<<42+n), "/docker/"+id64(80000+n))
	}
	k, _ := m.fork(init, 8, func(p *event.Process) { p.Cgroup.CgroupKey = last })
	if c := m.Process(k).Container; c == nil || c.FullID != id64(70000) {
		t.Errorf("a container that was about to begin: %+v", c)
	}
	for n := range 20 * minContainers {
		m.cgroup(uint64(1<<43+n), "/docker/"+id64(100000+n))
	}
	if n := m.Stats().Containers; n > 8*minContainers {
		t.Errorf("%d containers of a storm", n)
	}
	if c := m.Process(stay).Container; c == nil || c.FullID != id64(0) {
		t.Errorf("a living container: %+v", c)
	}
	if e := m.exec(stay, nil, "/bin/x"); e.Process.Container == nil {
		t.Error("a living container was forgotten")
	}
	m.check()
}

// A cgroup whose path comes after its processes, and a process that moves.
func TestLateCgroupAndMove(t *testing.T) {
	m := newMachine(t, nil)
	key := event.CgroupKey{Hierarchy: 4, ID: 7}
	k, e := m.fork(event.Key{}, 100, func(p *event.Process) { p.Cgroup.CgroupKey = key })
	if e.Process.Container != nil || e.Process.Cgroup.Path != "" {
		t.Errorf("%+v", e.Process.Cgroup)
	}
	m.apply(event.Key{}, nil, &event.CgroupState{Cgroup: event.Cgroup{CgroupKey: key, CgroupID: 7, Path: "/docker/" + id64(1)}})
	if p := m.Process(k); p.Container == nil || p.Container.FullID != id64(1) || p.Cgroup.Path == "" {
		t.Errorf("late: %+v %+v", p.Cgroup, p.Container)
	}
	// The same id in another hierarchy is another cgroup.
	other, _ := m.fork(event.Key{}, 101, func(p *event.Process) { p.Cgroup.CgroupKey = event.CgroupKey{ID: 7} })
	if p := m.Process(other); p.Container != nil {
		t.Errorf("another hierarchy: %+v", p.Container)
	}
	m.apply(k, nil, &event.CgroupState{Cgroup: event.Cgroup{CgroupKey: event.CgroupKey{ID: 9}, CgroupID: 9, Path: "/system.slice/a.service"}})
	if p := m.Process(k); p.Container != nil || p.Cgroup.Unit != "a.service" || p.Cgroup.CgroupID != 9 {
		t.Errorf("moved: %+v %+v", p.Cgroup, p.Container)
	}
	// An exec that tells no cgroup keeps it.
	if p := m.exec(k, nil, "/bin/x").Process; p.Cgroup.Unit != "a.service" {
		t.Errorf("after exec: %+v", p.Cgroup)
	}
	m.check()
}
