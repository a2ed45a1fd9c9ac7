package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"warren/test/cluster/bed"
)

//go:embed kwok.yaml
var kwokStages []byte

const (
	podsOfApp  = 20 // replicas of each deployment
	jobEvery   = 20 // of the apps one is a job
	namespaces = 50 // which the apps share
	simulated  = "simulated"
	comeAndGo  = 55 // pods a second that are deleted, so that at least 50 are
)

// A population is what lives in a simulated cluster: nodes that are only said to
// be there, and pods that kwok says run on them. Whatever else a cluster does is
// done by its real controllers: deployments replace their pods, jobs make theirs,
// the scheduler places them, services get endpoints.
type population struct {
	*kubernetes
	say   func(format string, args ...any)
	nodes int
	apps  int // that there are
}

// simulate starts kwok, which acts for the nodes' kubelets. It ends with ctx.
func (p *population) simulate(ctx context.Context, dir string) error {
	config := filepath.Join(dir, "kwok.yaml")
	if err := os.WriteFile(config, kwokStages, 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "kwok.log"))
	if err != nil {
		return err
	}
	cmd, err := p.Command(ctx, "kwok", "--kubeconfig", p.Kubeconfig(), "--config", config, "--manage-nodes-with-label-selector", "type="+simulated, "--v", "ERROR")
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start kwok: %w", err)
	}
	go func() {
		if err := cmd.Wait(); err != nil && ctx.Err() == nil {
			p.say("kwok ended: %v; its log is %s", err, log.Name())
		}
		_ = log.Close()
	}()
	return nil
}

// addNodes makes nodes that are Ready, and the namespaces, until those can have
// pods.
func (p *population) addNodes(ctx context.Context, n int) error {
	p.nodes = n
	now := time.Now().UTC().Format(time.RFC3339)
	several, within := errgroup.WithContext(ctx)
	several.SetLimit(apiConnections)
	for i := range namespaces {
		several.Go(func() error {
			return p.ask(within, http.MethodPost, "/api/v1/namespaces", object{"metadata": object{
				"name": namespaceOf(i), "labels": object{"team": namespaceOf(i), "stage": "production", "cost-center": fmt.Sprint(4000 + i)},
			}}, nil)
		})
	}
	for i := range n {
		name := nodeName(i)
		room := object{"cpu": "32", "memory": "128Gi", "pods": "110"}
		several.Go(func() error {
			return p.ask(within, http.MethodPost, "/api/v1/nodes", object{
				"metadata": object{"name": name, "labels": object{
					"type": simulated, "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
					"node.kubernetes.io/instance-type": "m7.8xlarge", "topology.kubernetes.io/region": "north-1", "topology.kubernetes.io/zone": fmt.Sprint("north-1", string(rune('a'+i%3))),
				}},
				"spec": object{"taints": []object{{"key": simulated, "effect": "NoSchedule"}}},
				"status": object{
					"capacity": room, "allocatable": room,
					"addresses": []object{
						{"type": "InternalIP", "address": fmt.Sprintf("10.128.%d.%d", i>>8, i&255)},
						{"type": "InternalIP", "address": fmt.Sprintf("fd00:128::%x", i+1)},
						{"type": "Hostname", "address": name},
					},
					"conditions": []object{{"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now}},
				},
			}, nil)
		})
	}
	if err := several.Wait(); err != nil {
		return err
	}
	// Pods need the account that a controller makes.
	return bed.Poll(ctx, 5*time.Minute, func() error {
		var all, accounts list
		err1 := p.ask(ctx, http.MethodGet, "/api/v1/namespaces", nil, &all)
		err2 := p.ask(ctx, http.MethodGet, "/api/v1/serviceaccounts?fieldSelector=metadata.name%3Ddefault", nil, &accounts)
		if len(accounts.Items) < len(all.Items) {
			err1 = errors.Join(err1, fmt.Errorf("%d of %d namespaces have an account", len(accounts.Items), len(all.Items)))
		}
		return errors.Join(err1, err2)
	})
}

func nodeName(i int) string { return fmt.Sprintf("worker-%04d", i) }

func namespaceOf(app int) string { return fmt.Sprintf("team-%02d", app%namespaces) }

// grow makes deployments with services, and jobs, until there are that many pods.
// What the controllers would make of a deployment is made here, while they stand
// still: they take a sixth of the requests to find it made.
func (p *population) grow(ctx context.Context, pods int) error {
	const controllers = "kube-controller-manager"
	if err := p.Stop(ctx, "control", controllers); err != nil {
		return err
	}
	several, within := errgroup.WithContext(ctx)
	several.SetLimit(apiConnections)
	for ; p.apps < pods/podsOfApp; p.apps++ {
		app := p.apps
		several.Go(func() error { return p.addApp(within, app) })
	}
	if err := several.Wait(); err != nil {
		return err
	}
	if err := p.Start(ctx, "control", controllers); err != nil {
		return err
	}
	return p.settle(ctx, pods, 20*time.Minute)
}

// addApp makes a deployment with its service, or a job.
func (p *population) addApp(ctx context.Context, app int) error {
	name, in := fmt.Sprintf("app-%04d", app), namespaceOf(app)
	if app%jobEvery == jobEvery-1 {
		return p.ask(ctx, http.MethodPost, "/apis/batch/v1/namespaces/"+in+"/jobs", object{
			"metadata": object{"name": name},
			"spec":     object{"parallelism": podsOfApp, "completions": podsOfApp, "template": podTemplate(name, in, "Never")},
		}, nil)
	}
	selector := object{"app.kubernetes.io/name": name}
	err := p.ask(ctx, http.MethodPost, "/api/v1/namespaces/"+in+"/services", object{
		"metadata": object{"name": name, "labels": selector},
		"spec": object{"selector": selector, "ipFamilyPolicy": "RequireDualStack", "ports": []object{
			{"name": "http", "port": 80, "targetPort": 8080}, {"name": "metrics", "port": 9090, "targetPort": 9090}}},
	}, nil)
	if err != nil {
		return err
	}
	deployment, err := p.own(ctx, "Deployment", "/apis/apps/v1/namespaces/"+in+"/deployments", object{
		"metadata": object{"name": name},
		"spec":     object{"replicas": podsOfApp, "selector": object{"matchLabels": selector}, "template": podTemplate(name, in, "Always")},
	})
	if err != nil {
		return err
	}
	hash := fmt.Sprintf("%010x", (app+1)*7919*104729)
	withHash := object{"app.kubernetes.io/name": name, hashLabel: hash}
	template := podTemplate(name, in, "Always")
	meta, _ := template["metadata"].(object)
	labels, _ := meta["labels"].(object)
	labels[hashLabel] = hash
	set, err := p.own(ctx, "ReplicaSet", "/apis/apps/v1/namespaces/"+in+"/replicasets", object{
		"metadata": object{"name": name + "-" + hash, "labels": labels, "ownerReferences": []object{deployment}},
		"spec":     object{"replicas": podsOfApp, "selector": object{"matchLabels": withHash}, "template": template},
	})
	if err != nil {
		return err
	}
	spec, _ := template["spec"].(object)
	meta["ownerReferences"] = []object{set}
	for i := range podsOfApp {
		meta["name"] = fmt.Sprintf("%s-%s-%05x", name, hash, (i+1)*7919)
		spec["nodeName"] = nodeName((app*podsOfApp + i) % p.nodes)
		if err := p.ask(ctx, http.MethodPost, "/api/v1/namespaces/"+in+"/pods", template, nil); err != nil {
			return err
		}
	}
	return nil
}

const hashLabel = "pod-template-hash"

// own makes an object, and gives the reference that what it owns has.
func (p *population) own(ctx context.Context, kind, path string, o object) (object, error) {
	var made struct {
		Metadata struct{ Name, UID string } `json:"metadata"`
	}
	if err := p.ask(ctx, http.MethodPost, path, o, &made); err != nil {
		return nil, err
	}
	return object{"apiVersion": "apps/v1", "kind": kind, "name": made.Metadata.Name, "uid": made.Metadata.UID, "controller": true, "blockOwnerDeletion": true}, nil
}

// podTemplate is a pod as those of real clusters are: two containers, what their
// charts and meshes put into labels and annotations.
func podTemplate(name, team, restart string) object {
	room := object{"requests": object{"cpu": "100m", "memory": "128Mi"}, "limits": object{"memory": "256Mi"}}
	probe := object{"httpGet": object{"path": "/healthz", "port": 8080}, "periodSeconds": 10}
	env := []object{{"name": "POD_NAME", "valueFrom": object{"fieldRef": object{"fieldPath": "metadata.name"}}}}
	for _, key := range []string{"DATABASE_URL", "CACHE_URL", "TRACING_ENDPOINT", "LOG_FORMAT", "FEATURE_FLAGS"} {
		env = append(env, object{"name": key, "value": "https://" + name + "." + team + ".svc.cluster.local/" + key})
	}
	return object{
		"metadata": object{
			"labels": object{
				"app.kubernetes.io/name": name, "app.kubernetes.io/instance": name + "-production", "app.kubernetes.io/version": "v2.14.3",
				"app.kubernetes.io/component": "backend", "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/managed-by": "Helm", "team": team,
			},
			"annotations": object{
				"prometheus.io/scrape": "true", "prometheus.io/port": "9090",
				"checksum/config": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
			},
		},
		"spec": object{
			"restartPolicy": restart,
			"nodeSelector":  object{"type": simulated},
			"tolerations":   []object{{"key": simulated, "operator": "Exists"}},
			"containers": []object{
				{"name": "app", "image": "registry.example/" + team + "/" + name + ":v2.14.3", "env": env, "resources": room, "readinessProbe": probe, "livenessProbe": probe,
					"ports": []object{{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}}},
				{"name": "proxy", "image": "registry.example/mesh/proxy:1.29.1", "resources": room, "args": []string{"proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local"}},
			},
		},
	}
}

// count is how many pods the API server has.
func (p *population) count(ctx context.Context) (int, error) {
	var l list
	if err := p.ask(ctx, http.MethodGet, "/api/v1/pods?limit=1", nil, &l); err != nil {
		return 0, err
	}
	return len(l.Items) + l.Metadata.Remaining, nil
}

// settle waits until so many simulated pods and no more are there, and all run.
func (p *population) settle(ctx context.Context, pods int, atMost time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	others, err := p.others(ctx)
	if err != nil {
		return err
	}
	for told := time.Now(); ; {
		n, err := p.count(ctx)
		if err == nil && n-others == pods {
			var pending list
			err = p.ask(ctx, http.MethodGet, "/api/v1/pods?fieldSelector=status.phase%3DPending&limit=1", nil, &pending)
			if err == nil && len(pending.Items) == 0 {
				return nil
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%d of %d pods after %s: %w", n-others, pods, atMost, context.Cause(ctx))
		}
		if err != nil {
			return err
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			p.say("%d of %d pods", n-others, pods)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// others is how many pods there are that are not simulated.
func (p *population) others(ctx context.Context) (int, error) {
	n := 0
	for _, in := range []string{"kube-system", "warren"} {
		var l list
		if err := p.ask(ctx, http.MethodGet, "/api/v1/namespaces/"+in+"/pods", nil, &l); err != nil {
			return 0, err
		}
		n += len(l.Items)
	}
	return n, nil
}

// churn deletes pods, all of one deployment at once, as many a second as
// comeAndGo; their deployments make others. It returns how many it deleted.
func (p *population) churn(ctx context.Context, length time.Duration) (int, error) {
	const interval = time.Second * podsOfApp / comeAndGo
	gone := make([]int, length/interval)
	several, within := errgroup.WithContext(ctx)
	several.SetLimit(apiConnections / 2)
	began, app := time.Now(), 0
	for i := range gone {
		select {
		case <-within.Done():
		case <-time.After(time.Until(began.Add(time.Duration(i) * interval))):
		}
		if within.Err() != nil {
			break
		}
		if app%jobEvery == jobEvery-1 {
			app++ // a job whose pods are deleted has failed
		}
		path := fmt.Sprintf("/api/v1/namespaces/%s/pods?labelSelector=app.kubernetes.io/name%%3Dapp-%04d", namespaceOf(app), app)
		app = (app + 1) % p.apps
		several.Go(func() error {
			var l list
			err := p.ask(within, http.MethodDelete, path, nil, &l)
			gone[i] = len(l.Items)
			return err
		})
	}
	err := several.Wait()
	sum := 0
	for _, n := range gone {
		sum += n
	}
	return sum, err
}
