package bed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"text/template"
)

// The ports of the nodes and pods that the demonstration uses.
const (
	shopNodePort = 30080
	shopPort     = 8080
	redisPort    = 6379
)

// A shopRole is a service of the shop.
type shopRole struct {
	Name, Tier, Image, Probe string
	Spread                   string // over the nodes, where it cannot be even
	Args                     []string
	Replicas, Port, NodePort int
}

// shopRoles are the shop's services. Nobody serves ads: who asks is refused.
func shopRoles() []shopRole {
	http := fmt.Sprintf("httpGet: {path: /healthz, port: %d}", shopPort)
	role := func(name, tier string, replicas int) shopRole {
		return shopRole{Name: name, Tier: tier, Image: ShopImage, Probe: http, Args: []string{name}, Replicas: replicas, Port: shopPort, Spread: "ScheduleAnyway"}
	}
	front := role("front", "web", 2)
	front.NodePort, front.Spread = shopNodePort, "DoNotSchedule"
	ads := role("ads", "backend", 0)
	ads.Args = []string{"serve"}
	return []shopRole{
		front, role("catalog", "backend", 2), role("cart", "backend", 2), role("payment", "backend", 1), ads,
		{Name: "redis", Tier: "data", Image: "localhost/redis:1", Probe: fmt.Sprintf("tcpSocket: {port: %d}", redisPort), Replicas: 1, Port: redisPort, Spread: "ScheduleAnyway",
			Args: []string{"--bind", "* -::*", "--protected-mode", "no", "--save", "", "--appendonly", "no"}},
	}
}

// shopManifests gives the shop as Kubernetes has it.
func shopManifests() (string, error) {
	t, err := template.ParseFS(files, "files/shop.yaml")
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = t.Execute(&out, struct{ Roles []shopRole }{shopRoles()})
	return out.String(), err
}

// Shop installs the shop and its customer, who is outside of the cluster and
// comes by the nodes' port. It may be there already.
func (c *Cluster) Shop(ctx context.Context) error {
	manifests, err := shopManifests()
	if err != nil {
		return err
	}
	if err := c.Apply(ctx, manifests); err != nil {
		return fmt.Errorf("apply the shop: %w", err)
	}
	err = each(ctx, shopRoles(), func(ctx context.Context, role shopRole) error {
		return c.Rollout(ctx, "shop", "deployment/"+role.Name)
	})
	if err != nil {
		return err
	}
	c.say("the shop is open")
	return c.customer(ctx)
}

// Outside makes the place outside the cluster that shares the nodes' network, if
// it is not there.
func (c *Cluster) Outside(ctx context.Context) error {
	p := c.place(outsidePlace)
	if _, err := c.holder(p); err == nil {
		return nil
	}
	if err := c.open(ctx, p); err != nil {
		return err
	}
	return c.connect(ctx, p, c.Network.host(outsideHost))
}

// customer sends the shop's customer, to a node by IPv4 and one by IPv6.
func (c *Cluster) customer(ctx context.Context) error {
	if err := c.Outside(ctx); err != nil {
		return err
	}
	nodes := c.RunningNodes()
	if len(nodes) == 0 {
		return errors.New("no node runs")
	}
	d := daemon{place: c.place(outsidePlace), name: "shop", argv: []string{c.path("bin", "shop"), "customer"}}
	if c.pid(d) != 0 {
		return nil
	}
	var entrance []string
	for i, name := range []string{nodes[0], nodes[len(nodes)-1]} {
		n, err := nodeNumber(name)
		if err != nil {
			return err
		}
		a := c.Network.host(nodeHost + n)
		entrance = append(entrance, "http://"+netip.AddrPortFrom([]netip.Addr{a.V4, a.V6}[i], shopNodePort).String())
	}
	d.argv = append(d.argv, entrance...)
	// Ready when the way through both nodes' kube-proxy is there.
	return c.start(ctx, d, func(ctx context.Context) error {
		var errs []error
		for _, url := range entrance {
			errs = append(errs, c.answers(ctx, outsidePlace, url+"/healthz"))
		}
		return errors.Join(errs...)
	})
}

// Warren installs the tree's chart with the image of the tree, or brings what is
// installed to it. The arguments are further ones of helm: "--set", "hub.replicas=1".
func (c *Cluster) Warren(ctx context.Context, further ...string) error {
	if _, err := os.Stat(c.path("images", "warren.tar")); err != nil {
		if err := c.LoadWarren(ctx); err != nil {
			return err
		}
	}
	argv := []string{"helm", "upgrade", "--install", "warren", filepath.Join(c.tools.root, "deploy", "helm", "warren"),
		"--namespace", "warren", "--create-namespace",
		"--set", "image.repository=localhost/warren,image.tag=dev,image.pullPolicy=Never",
		"--set-string", "agent.cgroupRoot=/" + c.Name + "/$(NODE_NAME)"}
	if mode := c.networkMode(); mode != "" {
		argv = append(argv, "--set", "cni=true,network.mode="+mode)
	}
	_, err := c.run(ctx, controlPlace, "", append(argv, further...)...)
	if err != nil {
		return fmt.Errorf("install Warren: %w", err)
	}
	c.say("Warren is installed")
	if err := each(ctx, []string{"daemonset/warren-agent", "deployment/warren-hub"}, func(ctx context.Context, object string) error {
		return c.Rollout(ctx, "warren", object)
	}); err != nil {
		return err
	}
	c.say("Warren is ready")
	return nil
}

// Demo installs Warren and the shop, and returns when the shop's traffic can be
// asked for.
func (c *Cluster) Demo(ctx context.Context) error {
	err := together(ctx, func(ctx context.Context) error { return c.Warren(ctx) }, c.Shop)
	if err != nil {
		return err
	}
	err = Poll(ctx, Patience, func() error {
		_, err := c.Kubectl(ctx, "warren", "map", "-n", "shop")
		return err
	})
	if err == nil {
		c.say("Warren answers")
	}
	return err
}
