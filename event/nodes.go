package event

import (
	"fmt"
	"strings"
)

// Nodes says how many of a cluster's agents an answer is made of, so that what
// is missing is never taken for what did not happen. The hub makes it.
type Nodes struct {
	Type     string   `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Total    int      `field:"nodes.total" doc:"how many nodes there are that were to answer"`
	Answered int      `field:"nodes.answered" doc:"how many of them did"`
	Missing  []string `field:"nodes.missing" doc:"nodes that did not, each with the reason: node-2: connection refused"`
}

// Kind implements [Data].
func (*Nodes) Kind() Kind { return KindNodes }

// Sentence says it in words: "3 of 4 nodes answered; node-2: connection
// refused".
func (n *Nodes) Sentence() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d nodes answered", n.Answered, n.Total)
	for _, m := range n.Missing {
		b.WriteString("; ")
		b.WriteString(m)
	}
	return b.String()
}
