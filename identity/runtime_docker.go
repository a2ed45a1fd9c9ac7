package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxAnswer bounds what is read of a runtime's answer.
const maxAnswer = 8 << 20

// askDocker asks Docker's API.
func askDocker(ctx context.Context, socket string, place Place) (*Description, error) {
	d, err := inspect(ctx, socket, place.ID)
	if d != nil {
		d.Runtime = "docker"
	}
	return d, err
}

// askPodman asks podman's service, which speaks Docker's API too.
func askPodman(ctx context.Context, socket string, place Place) (*Description, error) {
	d, err := inspect(ctx, socket, place.ID)
	if d != nil {
		d.Runtime = "podman"
	}
	return d, err
}

// dockerContainer is what is used of GET /containers/ID/json.
type dockerContainer struct {
	Name   string
	Image  string // id of the image
	Config struct {
		Image  string
		Labels map[string]string
	}
	State struct {
		StartedAt time.Time
	}
	HostConfig struct {
		Privileged bool
	}
}

// dockerImage is what is used of GET /images/ID/json.
type dockerImage struct {
	RepoTags    []string
	RepoDigests []string
}

func inspect(ctx context.Context, socket, id string) (*Description, error) {
	var dialer net.Dialer
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}

	var dc dockerContainer
	if err := getJSON(ctx, c, "/containers/"+url.PathEscape(id)+"/json", &dc); err != nil {
		return nil, err
	}
	d := &Description{
		Name:       strings.TrimPrefix(dc.Name, "/"),
		Image:      dc.Config.Image,
		ImageID:    dc.Image,
		Labels:     dc.Config.Labels,
		Privileged: dc.HostConfig.Privileged,
	}
	if dc.State.StartedAt.Year() > 1970 {
		d.Started = dc.State.StartedAt
	}
	var di dockerImage
	if dc.Image == "" || getJSON(ctx, c, "/images/"+url.PathEscape(dc.Image)+"/json", &di) != nil {
		return d, nil // the image can be gone while its container runs
	}
	ref := ParseImage(d.Image)
	if ref.Repo == "" && len(di.RepoTags) > 0 {
		d.Image = di.RepoTags[0] // it was asked for by its id
		ref = ParseImage(d.Image)
	}
	for n, s := range di.RepoDigests {
		if r := ParseImage(s); r.Repo == ref.Repo || n == 0 {
			d.ImageDigest = r.Digest
		}
	}
	return d, nil
}

// getJSON reads one answer of a runtime that speaks HTTP.
func getJSON(ctx context.Context, c *http.Client, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return err // names the method and the path
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return errNoContainer
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("get %s: %s", path, resp.Status)
	case err != nil:
		return fmt.Errorf("get %s: %w", path, err)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}
