package kube

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"warren/cluster"
)

// maxPolicyFile bounds a file of policies: what is larger is something else.
const maxPolicyFile = 16 << 20

// ParsePolicies reads policies from YAML or JSON: documents of them and lists of
// them. A NetworkPolicy that names no namespace is in the one given. Its error
// says which document is no policy, or has a key that policies have not.
// Policies have uids of their own, by kind and name, as if the cluster had given
// them.
func ParsePolicies(text []byte, namespace string) ([]*cluster.Policy, error) {
	if len(text) > maxPolicyFile {
		return nil, fmt.Errorf("%d bytes are too much for policies", len(text))
	}
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	var list []*cluster.Policy
	for number := 1; ; number++ {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		var more []*cluster.Policy
		if err == nil {
			more, err = policiesOf(doc, namespace, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
		list = append(list, more...)
	}
}

// maxLists is how many lists can be in each other.
const maxLists = 4

// policiesOf reads one document; none is in an empty one.
func policiesOf(doc []byte, namespace string, depth int) ([]*cluster.Policy, error) {
	b, err := yaml.ToJSON(doc)
	if err != nil {
		return nil, err
	}
	if b = bytes.TrimSpace(b); len(b) == 0 || string(b) == "null" {
		return nil, nil
	}
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Items           []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, err
	}
	kind := schema.FromAPIVersionAndKind(head.APIVersion, head.Kind)
	switch kind {
	case networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"):
		var p networkingv1.NetworkPolicy
		if err := strictly(b, &p); err != nil {
			return nil, fmt.Errorf("NetworkPolicy %q: %w", excerpt(p.Name), err)
		}
		if p.Name == "" {
			return nil, errors.New("a NetworkPolicy without a name")
		}
		if p.Namespace == "" {
			p.Namespace = namespace
		}
		out := networkPolicyOf(&p)
		out.UID = "networkpolicy/" + out.Namespace + "/" + out.Name
		return []*cluster.Policy{out}, nil
	case policyVersion.WithKind("ClusterNetworkPolicy"):
		var p policyv1alpha2.ClusterNetworkPolicy
		if err := strictly(b, &p); err != nil {
			return nil, fmt.Errorf("ClusterNetworkPolicy %q: %w", excerpt(p.Name), err)
		}
		if p.Name == "" {
			return nil, errors.New("a ClusterNetworkPolicy without a name")
		}
		out := clusterPolicyOf(&p)
		out.UID = "clusternetworkpolicy/" + out.Name
		return []*cluster.Policy{out}, nil
	case schema.GroupVersionKind{Version: "v1", Kind: "List"}, networkingv1.SchemeGroupVersion.WithKind("NetworkPolicyList"),
		policyVersion.WithKind("ClusterNetworkPolicyList"):
		if depth == maxLists {
			return nil, errors.New("lists in lists in lists")
		}
		var list []*cluster.Policy
		for i, item := range head.Items {
			more, err := policiesOf(item, namespace, depth+1)
			if err != nil {
				return nil, fmt.Errorf("item %d: %w", i+1, err)
			}
			list = append(list, more...)
		}
		return list, nil
	}
	return nil, fmt.Errorf("%q of %q is no policy: want a NetworkPolicy of networking.k8s.io/v1 or a ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha2",
		excerpt(head.Kind), excerpt(head.APIVersion))
}

// strictly reads JSON that has no keys but those of v.
func strictly(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
