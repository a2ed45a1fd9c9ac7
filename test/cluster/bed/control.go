package bed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// The daemons of the control plane, in the order in which they start.
var controlDaemons = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"}

// controlDaemon gives one of them.
func (c *Cluster) controlDaemon(name string) (daemon, error) {
	d := daemon{place: c.place(controlPlace), name: name}
	pki := func(file string) string { return c.path("pki", file) }
	authenticate := func() []string {
		config := pki(name + ".kubeconfig")
		return []string{"--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
			"--bind-address=127.0.0.1", "--leader-elect=false", "--kube-api-qps=500", "--kube-api-burst=1000"}
	}
	var args []string
	switch name {
	case "etcd":
		args = []string{
			"--data-dir=" + c.path("etcd"), "--unsafe-no-fsync",
			"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
			"--listen-peer-urls=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380", "--initial-cluster=default=http://127.0.0.1:2380"}
	case "kube-apiserver":
		args = []string{
			"--etcd-servers=http://127.0.0.1:2379",
			"--bind-address=::", "--advertise-address=" + c.controlAddresses().V4.String(), "--secure-port=6443",
			"--service-cluster-ip-range=" + c.Services.String(),
			"--allow-privileged=true", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--client-ca-file=" + pki("ca.crt"), "--tls-cert-file=" + pki("kube-apiserver.crt"), "--tls-private-key-file=" + pki("kube-apiserver.key"),
			"--kubelet-client-certificate=" + pki("admin.crt"), "--kubelet-client-key=" + pki("admin.key"), "--kubelet-certificate-authority=" + pki("ca.crt"),
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
			"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
			// No kube-proxy here: aggregated APIs and webhooks are reached by
			// the addresses of their pods.
			"--enable-aggregator-routing=true"}
	case "kube-controller-manager":
		args = append(authenticate(),
			"--controllers=*", "--use-service-account-credentials=true",
			"--root-ca-file="+pki("ca.crt"), "--service-account-private-key-file="+pki("sa.key"),
			"--cluster-signing-cert-file="+pki("ca.crt"), "--cluster-signing-key-file="+pki("ca.key"),
			"--allocate-node-cidrs=true", "--cluster-cidr="+c.Pods.String(), "--service-cluster-ip-range="+c.Services.String(),
			"--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64")
	case "kube-scheduler":
		args = authenticate()
	default:
		return d, fmt.Errorf("the control plane has no %q; it has %v", name, controlDaemons)
	}
	further, err := c.furtherArguments(name)
	if err != nil {
		return d, err
	}
	d.argv = slices.Concat([]string{c.tools.Path(name)}, args, further)
	return d, nil
}

// SetArguments gives a daemon of the control plane arguments behind its own, in the
// place of those that it was given before. They hold from its next start on.
func (c *Cluster) SetArguments(name string, further ...string) error {
	if !slices.Contains(controlDaemons, name) {
		return fmt.Errorf("the control plane has no %q; it has %v", name, controlDaemons)
	}
	text, err := json.Marshal(further)
	if err != nil {
		return err
	}
	return writeFile(c.furtherFile(name), text)
}

func (c *Cluster) furtherFile(name string) string { return c.path(controlPlace, name+".json") }

// furtherArguments are those that a daemon was given.
func (c *Cluster) furtherArguments(name string) (further []string, err error) {
	text, err := os.ReadFile(c.furtherFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &further)
	}
	if err != nil {
		return nil, fmt.Errorf("arguments of %s: %w", name, err)
	}
	return further, nil
}

// startControl starts one of the daemons and waits until it answers.
func (c *Cluster) startControl(ctx context.Context, name string) error {
	d, err := c.controlDaemon(name)
	if err != nil {
		return err
	}
	ready := func(ctx context.Context) error {
		return c.answers(ctx, controlPlace, "https://127.0.0.1:10257/healthz")
	}
	switch name {
	case "etcd":
		if err := os.MkdirAll(c.path("etcd"), 0o700); err != nil {
			return err
		}
		ready = func(ctx context.Context) error { return c.answers(ctx, controlPlace, "http://127.0.0.1:2379/health") }
	case "kube-apiserver":
		ready = func(ctx context.Context) error { return c.answers(ctx, controlPlace, c.server()+"/readyz") }
	case "kube-scheduler":
		ready = func(ctx context.Context) error {
			return c.answers(ctx, controlPlace, "https://127.0.0.1:10259/healthz")
		}
	}
	return c.start(ctx, d, ready)
}

// upControl starts the control plane: when it returns, nodes can register.
func (c *Cluster) upControl(ctx context.Context) error {
	for _, name := range controlDaemons[:2] {
		if err := c.startControl(ctx, name); err != nil {
			return err
		}
	}
	c.say("API server answers")
	return each(ctx, controlDaemons[2:], c.startControl)
}
