package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// askCRI asks CRI-O by Kubernetes' container runtime interface. Pods have a
// container of their own, which holds the namespaces: it is asked for by
// another call.
func askCRI(ctx context.Context, socket string, place Place, _ func(*Description)) (*Description, error) {
	conn, err := dialUnix(socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := cri.NewRuntimeServiceClient(conn)
	resp, err := c.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: place.ID, Verbose: true})
	switch {
	case status.Code(err) == codes.NotFound:
		return criPod(ctx, c, place.ID)
	case err != nil:
		return nil, fmt.Errorf("container status: %w", err)
	}
	s := resp.GetStatus()
	d := &Description{
		Runtime:    "cri-o",
		Kubernetes: true,
		Name:       s.GetMetadata().GetName(),
		Image:      s.GetImage().GetUserSpecifiedImage(),
		ImageID:    s.GetImageId(),
		Labels:     s.GetLabels(),
	}
	if d.Image == "" {
		d.Image = s.GetImage().GetImage()
	}
	d.ImageDigest = ParseImage(s.GetImageRef()).Digest
	if d.ImageID == "" && d.ImageDigest == "" {
		d.ImageID = s.GetImageRef()
	}
	if ns := s.GetStartedAt(); ns > 0 {
		d.Started = time.Unix(0, ns)
	}
	var info struct {
		Privileged bool   `json:"privileged"`
		SandboxID  string `json:"sandboxID"`
	}
	if json.Unmarshal([]byte(resp.GetInfo()["info"]), &info) == nil {
		d.Privileged, d.Sandbox = info.Privileged, info.SandboxID
	}
	return d, nil
}

func criPod(ctx context.Context, c cri.RuntimeServiceClient, id string) (*Description, error) {
	resp, err := c.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: id})
	switch {
	case status.Code(err) == codes.NotFound:
		return nil, errNoContainer
	case err != nil:
		return nil, fmt.Errorf("pod status: %w", err)
	}
	s := resp.GetStatus()
	d := &Description{Runtime: "cri-o", Kubernetes: true, Name: sandboxName, Labels: s.GetLabels(), Sandbox: id}
	if ns := s.GetCreatedAt(); ns > 0 {
		d.Started = time.Unix(0, ns)
	}
	return d, nil
}
