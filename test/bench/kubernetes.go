package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"warren/test/cluster/bed"
)

// newCluster gives a cluster of the test bed, which does not run yet.
func (b *bench) newCluster(config bed.Config) (*bed.Cluster, error) {
	tools, err := bed.FindTools()
	if err != nil {
		return nil, err
	}
	if !tools.Built() {
		return nil, fmt.Errorf("the programs of a cluster are not in %s: bin/cluster build", tools.Dir())
	}
	return bed.New(config, tools, func(line string) { fmt.Fprintln(b.log, line) })
}

// takeDown removes a cluster, also when this program was told to end.
func (b *bench) takeDown(c *bed.Cluster) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := c.Down(ctx); err != nil {
		fmt.Fprintf(b.log, "take %s down: %v\n", c.Name, err)
	}
}

// A kubernetes is a running cluster and the way to its API server.
type kubernetes struct {
	*bed.Cluster
	client *http.Client
	url    string
}

// apiConnections is how many requests are under way at most.
const apiConnections = 32

func connect(c *bed.Cluster) (*kubernetes, error) {
	client, url, err := c.Client(apiConnections)
	return &kubernetes{c, client, url}, err
}

// An object is one of the API's, or a part of one.
type object map[string]any

// A list is what is counted of a list's answer.
type list struct {
	Metadata struct {
		Remaining int `json:"remainingItemCount"`
	} `json:"metadata"`
	Items []struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	} `json:"items"`
}

// ask asks the API server.
func (k *kubernetes) ask(ctx context.Context, method, path string, body object, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, k.url+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if method == http.MethodGet {
		// Names are all that is read of lists.
		request.Header.Set("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json")
	}
	answer, err := k.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err = io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode >= 300:
		return fmt.Errorf("%s %s: %s: %.300s", method, path, answer.Status, text)
	case into == nil:
		return nil
	}
	return json.Unmarshal(text, into)
}

// process finds a process of the cluster by the beginning of its command line.
func (k *kubernetes) process(argv ...string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	begin := []byte(strings.Join(argv, "\x00") + "\x00")
	for _, name := range files {
		line, err := os.ReadFile(name)
		if err != nil || !bytes.HasPrefix(line, begin) {
			continue
		}
		group, err := os.ReadFile(filepath.Join(filepath.Dir(name), "cgroup"))
		if err != nil || !bytes.Contains(group, []byte("0::/"+k.Name+"/")) {
			continue
		}
		return strconv.Atoi(filepath.Base(filepath.Dir(name)))
	}
	return 0, fmt.Errorf("no process %v in cluster %s", argv, k.Name)
}

// age is for how long a process has run, to a hundredth of a second.
func age(pid int) (time.Duration, error) {
	stat, err1 := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	uptime, err2 := os.ReadFile("/proc/uptime")
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	ticks, err1 := strconv.ParseUint(fields[19], 10, 64)
	now, err2 := strconv.ParseFloat(strings.Fields(string(uptime))[0], 64)
	return time.Duration(now*1e9) - time.Duration(ticks)*time.Second/100, errors.Join(err1, err2) // USER_HZ
}

// metrics are values as Prometheus reads them, by name and labels.
type metrics map[string]float64

func parseMetrics(text string) metrics {
	m := make(metrics)
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			m[name] = v
		}
	}
	return m
}

// byResource are a metric's values by its label resource, which is its only one.
func (m metrics) byResource(name string) map[string]float64 {
	values := make(map[string]float64)
	for key, v := range m {
		if rest, ok := strings.CutPrefix(key, name+`{resource="`); ok {
			values[strings.TrimSuffix(rest, `"}`)] = v
		}
	}
	return values
}

// sum is that of all values of a metric.
func (m metrics) sum(name string) (sum float64) {
	for _, v := range m.byResource(name) {
		sum += v
	}
	return sum
}

// scrape reads metrics from within the cluster's network.
func (k *kubernetes) scrape(ctx context.Context, address string) (metrics, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return k.Dial(ctx, "control", network, address)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("metrics of %s: %s", address, answer.Status)
	}
	return parseMetrics(string(text)), err
}
