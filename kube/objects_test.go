package kube

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"
)

// Paths of what the tests watch.
const (
	podPath       = "/api/v1/pods"
	servicePath   = "/api/v1/services"
	nodePath      = "/api/v1/nodes"
	namespacePath = "/api/v1/namespaces"
	slicePath     = "/apis/discovery.k8s.io/v1/endpointslices"
	setPath       = "/apis/apps/v1/replicasets"
	jobPath       = "/apis/batch/v1/jobs"
	netpolPath    = "/apis/networking.k8s.io/v1/networkpolicies"
	cnpPath       = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"
)

// emptyLists has the lists by the last part of their path. Of those asked for
// by their metadata any will do.
var emptyLists = map[string]func() runtime.Object{
	"pods":           func() runtime.Object { return &corev1.PodList{} },
	"services":       func() runtime.Object { return &corev1.ServiceList{} },
	"nodes":          func() runtime.Object { return &corev1.NodeList{} },
	"configmaps":     func() runtime.Object { return &corev1.ConfigMapList{} },
	"endpointslices": func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
	"namespaces":     func() runtime.Object { return &metav1.PartialObjectMetadataList{} },
	"replicasets":    func() runtime.Object { return &metav1.PartialObjectMetadataList{} },
	"jobs":           func() runtime.Object { return &metav1.PartialObjectMetadataList{} },

	"networkpolicies":        func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
	"clusternetworkpolicies": func() runtime.Object { return &policyv1alpha2.ClusterNetworkPolicyList{} },
}

func newItem(items any) runtime.Object {
	return reflect.New(reflect.TypeOf(items).Elem().Elem()).Interface().(runtime.Object)
}

func (s *server) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// whole is a time as the API has it: of whole seconds.
func whole(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// apiPod is a pod that runs since a minute ago, with much that nobody needs.
func apiPod(namespace, name, node string, ips ...string) *corev1.Pod {
	began := whole(time.Now().Add(-time.Minute))
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + "-" + name), CreationTimestamp: began,
			Labels:      map[string]string{"app": name},
			Annotations: map[string]string{"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 1000)},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet", FieldsType: "FieldsV1",
				FieldsV1: metav1.NewFieldsV1(`{"f:status":` + strings.Repeat(`{"f:x":`, 100) + "{}" + strings.Repeat("}", 100) + "}")}},
		},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "default",
			Containers: []corev1.Container{
				{Name: "main", Image: "registry.example/shop/" + name + ":1", Env: []corev1.EnvVar{{Name: "SECRET", Value: strings.Repeat("y", 500)}}},
				{Name: "proxy", Image: "registry.example/mesh/proxy:1.20"},
			},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: &began,
			ContainerStatuses: []corev1.ContainerStatus{
				{Name: "main", ContainerID: fmt.Sprintf("containerd://%064x", len(name)), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}},
				{Name: "proxy", ContainerID: fmt.Sprintf("containerd://%064x", 1), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: began}}},
			},
		},
	}
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		p.Status.PodIP = ips[0]
	}
	return p
}

func ownedBy(p *corev1.Pod, apiVersion, kind, name string) *corev1.Pod {
	yes := true
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, Controller: &yes}}
	return p
}

func apiService(namespace, name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("svc-" + name), CreationTimestamp: whole(time.Now().Add(-time.Hour))},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, NodePort: 30080}}},
	}
}

func apiSlice(namespace, name, service string, pods ...*corev1.Pod) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, p := range pods {
		node := p.Spec.NodeName
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.Status.PodIP}, NodeName: &node,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		})
	}
	return s
}

func apiNode(name, ip, cidr string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("node-" + name)},
		Spec:       corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status:     corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}, {Type: corev1.NodeHostName, Address: name}}},
	}
}

// apiMeta is an object of which only the metadata is asked for.
func apiMeta(namespace, name string, labels map[string]string, owner ...string) *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(name), Labels: labels}}
	if len(owner) == 3 {
		yes := true
		m.OwnerReferences = []metav1.OwnerReference{{APIVersion: owner[0], Kind: owner[1], Name: owner[2], Controller: &yes}}
	}
	return m
}

func isWatch(r *http.Request) bool { return r.URL.Query().Get("watch") != "" }
