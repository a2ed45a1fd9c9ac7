package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// dialUnix connects to a gRPC server at a local socket.
func dialUnix(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the socket's permissions protect it
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	return conn, nil
}

// askContainerd asks containerd, in every namespace unless the path tells it.
func askContainerd(ctx context.Context, socket string, place Place, _ func(*Description)) (*Description, error) {
	conn, err := dialUnix(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()

	first := []string{"k8s.io", "default", "moby"}
	if place.Namespace != "" {
		first = []string{place.Namespace}
	}
	for _, ns := range first {
		d, err := containerdContainer(ctx, conn, ns, place.ID)
		if status.Code(err) != codes.NotFound {
			return d, err
		}
	}
	all, err := namespacesapi.NewNamespacesClient(conn).List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list namespaces: %w", err)
	}
	for _, ns := range all.Namespaces {
		if slices.Contains(first, ns.Name) {
			continue
		}
		d, err := containerdContainer(ctx, conn, ns.Name, place.ID)
		if status.Code(err) != codes.NotFound {
			return d, err
		}
	}
	return nil, errNoContainer
}

func containerdContainer(ctx context.Context, conn *grpc.ClientConn, namespace, id string) (*Description, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
	resp, err := containersapi.NewContainersClient(conn).Get(ctx, &containersapi.GetContainerRequest{ID: id})
	if err != nil {
		return nil, err // the caller needs the status, and adds the rest
	}
	c := resp.Container
	d := &Description{Runtime: "containerd", Name: id, Image: c.GetImage(), Labels: c.GetLabels(), Kubernetes: namespace == "k8s.io", Sandbox: c.GetSandbox()}
	// Kubernetes and nerdctl give names by labels; containerd itself has none but
	// the id.
	for _, label := range []string{"nerdctl/name", "io.kubernetes.container.name"} {
		if v := d.Labels[label]; v != "" {
			d.Name = v
		}
	}
	if d.Kubernetes && d.isSandbox() {
		d.Name = sandboxName
	}
	if c.GetCreatedAt().IsValid() {
		d.Started = c.GetCreatedAt().AsTime() // a task has no time of its own; it follows at once
	}
	spec := parseSpec(c.GetSpec().GetValue())
	d.Privileged = spec.privileged()
	if id := spec.Annotations["io.kubernetes.cri.sandbox-id"]; id != "" {
		d.Sandbox = id
	}
	if c.GetImage() != "" {
		img, err := imagesapi.NewImagesClient(conn).Get(ctx, &imagesapi.GetImageRequest{Name: c.GetImage()})
		if err == nil { // the image can be gone while its container runs
			d.ImageDigest = img.GetImage().GetTarget().GetDigest()
		}
	}
	return d, nil
}

// spec is what is used of an OCI runtime specification.
type spec struct {
	Annotations map[string]string `json:"annotations"`
	Process     struct {
		Capabilities struct {
			Bounding []string `json:"bounding"`
		} `json:"capabilities"`
	} `json:"process"`
	Linux struct {
		MaskedPaths   []string        `json:"maskedPaths"`
		ReadonlyPaths []string        `json:"readonlyPaths"`
		Seccomp       json.RawMessage `json:"seccomp"`
		Resources     struct {
			Devices []struct {
				Allow  bool   `json:"allow"`
				Type   string `json:"type"`
				Major  *int64 `json:"major"`
				Minor  *int64 `json:"minor"`
				Access string `json:"access"`
			} `json:"devices"`
		} `json:"resources"`
	} `json:"linux"`
}

// parseSpec reads a specification; of another system's it is empty.
func parseSpec(data []byte) *spec {
	s := new(spec)
	if json.Unmarshal(data, s) != nil {
		return new(spec)
	}
	return s
}

// privileged reports whether a container is privileged. The specification knows
// no such word: what runtimes do when they are asked for it is to lift every
// fence at once.
func (s *spec) privileged() bool {
	l := &s.Linux
	if len(l.MaskedPaths) > 0 || len(l.ReadonlyPaths) > 0 || len(l.Seccomp) > 0 && string(l.Seccomp) != "null" {
		return false
	}
	if !slices.Contains(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN") {
		return false
	}
	for _, d := range l.Resources.Devices {
		if d.Allow && (d.Type == "" || d.Type == "a") && d.Major == nil && d.Minor == nil && d.Access == "rwm" {
			return true
		}
	}
	return false
}
