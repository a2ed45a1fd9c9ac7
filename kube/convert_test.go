package kube

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"warren/cluster"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// TestContainers has every kind of container, with and without a status.
func TestContainers(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{
		Spec: corev1.PodSpec{
			Containers:     []corev1.Container{{Name: "main", Image: "a:1"}, {Name: "other", Image: "a:1"}},
			InitContainers: []corev1.Container{{Name: "setup", Image: "b"}, {Name: "proxy", Image: "c", RestartPolicy: &always}},
			EphemeralContainers: []corev1.EphemeralContainer{
				{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debugger", Image: "d"}},
			},
		},
		Status: corev1.PodStatus{
			ContainerStatuses:          []corev1.ContainerStatus{{Name: "main", ContainerID: "containerd://aaa"}, {Name: "stranger", ContainerID: "x"}},
			InitContainerStatuses:      []corev1.ContainerStatus{{Name: "setup", ContainerID: "cri-o://bbb"}, {Name: "proxy", ContainerID: "ccc"}},
			EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: "debugger", ContainerID: "containerd://ddd"}},
		},
	}
	want := []cluster.Container{
		{Name: "main", Image: "a:1", Kind: cluster.Main, ID: "aaa"},
		{Name: "other", Image: "a:1", Kind: cluster.Main},
		{Name: "setup", Image: "b", Kind: cluster.Init, ID: "bbb"},
		{Name: "proxy", Image: "c", Kind: cluster.Sidecar, ID: "ccc"},
		{Name: "debugger", Image: "d", Kind: cluster.Ephemeral, ID: "ddd"},
	}
	if diff := cmp.Diff(want, podOf(p, true).Containers); diff != "" {
		t.Error(diff)
	}
	if got := podOf(p, false).Containers; got != nil {
		t.Errorf("containers that nobody asked for: %v", got)
	}
}

func TestOwner(t *testing.T) {
	for _, test := range []struct {
		apiVersion, kind     string
		controller, workload cluster.Workload
		static               string
	}{
		{"apps/v1", "ReplicaSet", cluster.Workload{Kind: "ReplicaSet", Name: "x"}, cluster.Workload{}, ""},
		{"batch/v1", "Job", cluster.Workload{Kind: "Job", Name: "x"}, cluster.Workload{}, ""},
		{"batch.volcano.sh/v1alpha1", "Job", cluster.Workload{}, cluster.Workload{Kind: "Job", Name: "x"}, ""}, // another Job
		{"apps/v1", "DaemonSet", cluster.Workload{Kind: "DaemonSet", Name: "x"}, cluster.Workload{}, ""},
		{"v1", "Node", cluster.Workload{Kind: "Node", Name: "x"}, cluster.Workload{}, "hash"},
	} {
		p := ownedBy(apiPod("shop", "p", "node-1"), test.apiVersion, test.kind, "x")
		p.Annotations[mirrorAnnotation] = "hash"
		got := podOf(p, false)
		if got.Controller != test.controller || got.Workload != test.workload || got.StaticUID != test.static {
			t.Errorf("%s %s: controller %v, workload %v, static uid %q", test.apiVersion, test.kind, got.Controller, got.Workload, got.StaticUID)
		}
	}
	p := ownedBy(apiPod("shop", "p", "node-1"), "v1", "ConfigMap", "x")
	p.OwnerReferences[0].Controller = nil
	if got := podOf(p, false); got.Controller != (cluster.Workload{}) {
		t.Errorf("an owner that controls nothing is the controller: %v", got.Controller)
	}
}

func TestEnd(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	finished := func(d time.Duration) corev1.ContainerStatus {
		return corev1.ContainerStatus{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(noon.Add(d))}}}
	}
	going := corev1.ContainerStatus{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	now := metav1.NewTime(noon)
	for _, test := range []struct {
		name     string
		phase    corev1.PodPhase
		deleted  *metav1.Time
		statuses []corev1.ContainerStatus
		want     time.Time
	}{
		{"runs", corev1.PodRunning, nil, []corev1.ContainerStatus{going, going}, time.Time{}},
		{"one has ended and is started again", corev1.PodRunning, nil, []corev1.ContainerStatus{going, finished(0)}, time.Time{}},
		{"all have ended and are started again", corev1.PodRunning, nil, []corev1.ContainerStatus{finished(0), finished(0)}, time.Time{}},
		{"succeeded", corev1.PodSucceeded, nil, []corev1.ContainerStatus{finished(time.Minute), finished(0)}, noon.Add(time.Minute + time.Second)},
		{"evicted before it ran", corev1.PodFailed, nil, nil, time.Time{}}, // the State has the time at which it was told
		{"is deleted, one goes on", corev1.PodRunning, &now, []corev1.ContainerStatus{going, finished(0)}, time.Time{}},
		{"is deleted, one is not told", corev1.PodRunning, &now, []corev1.ContainerStatus{finished(0)}, time.Time{}},
		{"is deleted, all have ended", corev1.PodRunning, &now, []corev1.ContainerStatus{finished(0), finished(2 * time.Second)}, noon.Add(3 * time.Second)},
		{"is deleted before it began", corev1.PodPending, &now, nil, time.Time{}},
	} {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: test.deleted},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}, {Name: "b"}}},
			Status:     corev1.PodStatus{Phase: test.phase, ContainerStatuses: test.statuses},
		}
		if got := endOf(p); !got.Equal(test.want) {
			t.Errorf("%s: ended %v, want %v", test.name, got, test.want)
		}
	}
}

func TestServiceAndNode(t *testing.T) {
	v := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{UID: "u", Namespace: "shop", Name: "web", Labels: map[string]string{"a": "b"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10", "fd00::10"}, ExternalIPs: []string{"192.0.2.1", "none"},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, NodePort: 30080}, {Port: 53, Protocol: corev1.ProtocolUDP}, {Port: -1, NodePort: 70000, Protocol: "SCTP"}},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "203.0.113.1"}, {Hostname: "lb.example"}}}},
	}
	want := &cluster.Service{
		UID: "u", Namespace: "shop", Name: "web", Labels: map[string]string{"a": "b"},
		Addrs: parseAddrs([]string{"10.96.0.10", "fd00::10", "10.96.0.10", "192.0.2.1", "203.0.113.1"}),
		Ports: []cluster.Port{{Name: "http", Protocol: "tcp", Port: 80, NodePort: 30080}, {Protocol: "udp", Port: 53}, {Protocol: "sctp"}},
	}
	if diff := cmp.Diff(want, serviceOf(v), sameAddr); diff != "" {
		t.Errorf("service: %s", diff)
	}
	if got := serviceOf(&corev1.Service{Spec: corev1.ServiceSpec{ClusterIP: "None", ClusterIPs: []string{"None"}}}); len(got.Addrs) != 0 {
		t.Errorf("a headless service has addresses: %v", got.Addrs)
	}
	n := apiNode("node-1", "172.30.0.11", "10.244.0.0/24")
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "192.0.2.11"}, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "garbage"})
	n.Spec.PodCIDRs = nil // as old clusters have it
	got := nodeOf(n)
	if len(got.Addrs) != 2 || len(got.PodCIDRs) != 1 || got.PodCIDRs[0].String() != "10.244.0.0/24" {
		t.Errorf("node: %+v", got)
	}
}

// FuzzObjects has objects of the API that say anything: none may stop the
// process, nor leave what the State cannot take.
func FuzzObjects(f *testing.F) {
	seed := func(o any) {
		b, err := json.Marshal(o)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	web := ownedBy(apiPod("shop", "web", "node-1", "10.244.0.7", "fd00::7"), "v1", "Node", "node-1")
	web.Annotations = map[string]string{mirrorAnnotation: "hash"}
	web.ManagedFields = nil
	seed(web)
	seed(apiService("shop", "web", "10.96.0.10"))
	seed(apiNode("node-1", "172.30.0.11", "10.244.0.0/24"))
	seed(apiSlice("shop", "web-1", "web", web))
	seed(apiMeta("shop", "job", nil, "batch/v1", "CronJob", "x"))
	f.Add([]byte(`{"metadata":{"uid":"x","labels":{"\u0000":"\u001b[31m"},"creationTimestamp":"9999-12-31T23:59:59Z","deletionTimestamp":"0001-01-01T00:00:01Z"},` +
		`"status":{"phase":"Failed","podIP":"fe80::1%eth0","containerStatuses":[{"containerID":"://","state":{"terminated":{"finishedAt":null}}}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		st := cluster.NewState(cluster.Config{})
		all := resources(st, Options{Node: "node-1"})
		var pod corev1.Pod
		var service corev1.Service
		var node corev1.Node
		var slice discoveryv1.EndpointSlice
		var object metav1.PartialObjectMetadata
		for _, o := range []any{&pod, &service, &node, &slice, &object} {
			_ = json.Unmarshal(data, o) // what could be read of it is there
		}
		now := time.Unix(1_800_000_000, 0)
		for _, r := range all {
			for _, i := range []*item{r.item(&pod), r.item(&service), r.item(&node), r.item(&slice), r.item(&object)} {
				if i != nil && i.key != "" && i.value != nil {
					r.set(i.key, i.value, now)
				}
			}
		}
		st.Pods(func(p *cluster.Pod) bool {
			for _, text := range []string{p.UID, p.Name, p.Namespace, p.Phase, p.StaticUID} {
				if len(text) > 253 || strings.ContainsAny(text, "\x00\x1b\n") {
					t.Errorf("a text of a pod: %q", text)
				}
			}
			st.ServicesOf(p)
			return true
		})
		for _, addr := range parseAddrs([]string{pod.Status.PodIP, service.Spec.ClusterIP}) {
			st.Peer(addr, 80, "tcp", now)
		}
		agentsOf(&slice)
		for _, r := range all {
			for _, i := range []*item{r.item(&pod), r.item(&service), r.item(&node), r.item(&slice), r.item(&object)} {
				if i != nil && i.key != "" {
					r.gone(i.key, i.value, now)
				}
			}
		}
		if got := st.Stats(); got.Pods+got.Services+got.Nodes+got.EndpointSlices != 0 {
			t.Errorf("not all of it went: %+v", got)
		}
	})
}
