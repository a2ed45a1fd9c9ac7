package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"warren/test/cluster/bed"
)

// TestClusterHostPorts holds that ports of nodes that are pods' are reached from
// everywhere, judged by policy as if the pod had been asked, go on without an
// agent, and are nobody's when the pod is gone.
func TestClusterHostPorts(t *testing.T) {
	testHostPorts(ownNetwork(t, "warren").own(t))
}

func testHostPorts(c *testCluster) {
	c.t.Helper()
	c.must(c.Outside(c.context()))
	c.serve() // who asks from pods
	node := c.RunningNodes()[0]
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: ported, namespace: %s, labels: {app: ported}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: %s
    imagePullPolicy: Never
    args: [serve]
    ports:
    - {containerPort: 9200, hostPort: 19200, protocol: TCP}
    - {containerPort: 9200, hostPort: 19200, protocol: UDP}
`, c.namespace, node, bed.ShopImage)
	start := func() guest {
		c.t.Helper()
		c.apply(manifest)
		c.ready("pod/ported")
		g := c.guests(c.namespace, "app=ported")[0]
		c.listen(g, "tcp", 9200)
		c.listen(g, "udp", 9200)
		return g
	}
	ported := start()
	at, askers := c.guestAt(node), append(c.guests(c.namespace, "app=serve"), c.guestAt("outside"), ported)
	for _, name := range c.RunningNodes() {
		askers = append(askers, c.guestAt(name))
	}
	for _, from := range askers {
		for _, protocol := range []string{"tcp", "udp"} {
			for _, six := range []bool{false, true} {
				// Who asks is seen, but by way of the node: itself, or the node.
				var want netip.Addr
				if from.name != ported.name && from.node != node {
					want = from.addr(six)
				}
				c.sees(from, protocol, netip.AddrPortFrom(at.addr(six), 19200), want)
			}
		}
	}
	for _, protocol := range []string{"tcp", "udp"} {
		c.sees(at, protocol, netip.MustParseAddrPort("127.0.0.1:19200"), netip.Addr{})
	}

	// What policy denies the pod's port, it denies the node's.
	c.apply(fmt.Sprintf(`
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: ported, namespace: %s}
spec:
  podSelector: {matchLabels: {app: ported}}
  policyTypes: [Ingress]
  ingress: [{from: [{ipBlock: {cidr: %s/32}}]}]
`, c.namespace, c.guestAt("outside").addr(false)))
	port := netip.AddrPortFrom(at.addr(false), 19200)
	for _, from := range askers {
		switch {
		case from.name == "outside":
			c.sees(from, "tcp", port, from.addr(false))
		case !strings.Contains(from.name, "/") || from.name == ported.name:
			// Its own node may always, others are not what this is about.
		default:
			c.eventually("policy to deny "+from.name, func(context.Context) error {
				if seen, err := reach(from, "tcp", port, 300*time.Millisecond); err == nil {
					return errors.New("it is answered, and seen as " + seen)
				}
				return nil
			})
		}
	}
	c.kubectl("delete", "networkpolicy", "ported")

	// Another pod has the port at once, for who keeps asking too.
	c.kubectl("delete", "pod", "ported", "--wait")
	again := start()
	if again.addr(false) == ported.addr(false) {
		c.t.Errorf("the next pod has the address %s at once", again.addr(false))
	}
	for _, protocol := range []string{"tcp", "udp"} {
		c.sees(c.guestAt("outside"), protocol, netip.AddrPortFrom(at.addr(false), 19200), c.guestAt("outside").addr(false))
	}
	c.kubectl("delete", "pod", "ported", "--wait")
	c.eventually("the port to be nobody's", func(context.Context) error {
		if seen, err := reach(c.guestAt("outside"), "tcp", port, 300*time.Millisecond); err == nil {
			return errors.New("it is answered, and seen as " + seen)
		}
		return nil
	})
}
