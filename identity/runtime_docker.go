package identity

import (
	"bytes"
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

// Docker and podman lock a container while they start it, and answer what is
// asked about it only afterwards: too late for those who wait to know whose the
// first process is. Its name, image and labels can be had without the lock:
// from Docker's list of containers, and from podman's record of events.

// lockPatience is how long the full answer may take before the other is asked
// for.
const lockPatience = 30 * time.Millisecond

// askDocker asks Docker's API.
func askDocker(ctx context.Context, socket string, place Place, early func(*Description)) (*Description, error) {
	return ask(ctx, socket, "docker", place.ID, listed, early)
}

// askPodman asks podman's service, which speaks Docker's API too.
func askPodman(ctx context.Context, socket string, place Place, early func(*Description)) (*Description, error) {
	return ask(ctx, socket, "podman", place.ID, created, early)
}

func ask(ctx context.Context, socket, runtime, id string, quick func(context.Context, *http.Client, string) (*Description, error), early func(*Description)) (*Description, error) {
	var dialer net.Dialer
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport}

	quickCtx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		timer := time.NewTimer(lockPatience)
		defer timer.Stop()
		select {
		case <-quickCtx.Done():
			return
		case <-timer.C:
		}
		if d, err := quick(quickCtx, c, id); err == nil { // otherwise the full answer is all there is
			d.Runtime = runtime
			early(d)
		}
	}()
	d, err := inspect(ctx, c, id)
	stop()
	<-done
	if d != nil {
		d.Runtime = runtime
	}
	return d, err
}

// listed describes a container by Docker's list.
func listed(ctx context.Context, c *http.Client, id string) (*Description, error) {
	var list []struct {
		Names   []string
		Image   string
		ImageID string
		Labels  map[string]string
	}
	if err := getJSON(ctx, c, "/containers/json?all=true&filters="+filters("id", id), &list); err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, errNoContainer
	}
	d := &Description{Image: list[0].Image, ImageID: list[0].ImageID, Labels: list[0].Labels}
	if len(list[0].Names) > 0 {
		d.Name = strings.TrimPrefix(list[0].Names[0], "/")
	}
	return d, nil
}

// created describes a container by what podman recorded when it was made.
func created(ctx context.Context, c *http.Client, id string) (*Description, error) {
	body, err := get(ctx, c, "/events?stream=false&since=120s&filters="+filters("container", id))
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(body) {
		var e struct {
			Actor struct {
				ID         string
				Attributes map[string]string
			}
		}
		if json.Unmarshal(line, &e) != nil || e.Actor.ID != id || e.Actor.Attributes["name"] == "" {
			continue
		}
		// The labels stand among podman's own attributes.
		d := &Description{Name: e.Actor.Attributes["name"], Image: e.Actor.Attributes["image"], Labels: e.Actor.Attributes}
		for _, own := range []string{"name", "image", "containerExitCode", "podId"} {
			delete(d.Labels, own)
		}
		return d, nil
	}
	return nil, errNoContainer
}

// filters renders a filter as both APIs take it.
func filters(key, value string) string {
	b, err := json.Marshal(map[string][]string{key: {value}})
	if err != nil {
		return "" // cannot happen: strings can be marshalled
	}
	return url.QueryEscape(string(b))
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

func inspect(ctx context.Context, c *http.Client, id string) (*Description, error) {
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
	if dc.Image != "" {
		// The image can be gone while its container runs: then it has no digest.
		_ = getJSON(ctx, c, "/images/"+url.PathEscape(dc.Image)+"/json", &di)
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
	body, err := get(ctx, c, path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("get %s: %w", path, err)
	}
	return nil
}

func get(ctx context.Context, c *http.Client, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err // names the method and the path
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return nil, errNoContainer
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("get %s: %s", path, resp.Status)
	case err != nil:
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return body, nil
}
