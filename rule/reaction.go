package rule

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// An Action is what a reaction does.
type Action uint8

// The actions. Zero is none.
const (
	RunProgram Action = iota + 1
	CallWebhook
	LabelPod
	DeletePod
)

var actionNames = [...]string{"", "program", "webhook", "label", "delete"}

// String returns the action as events name it.
func (a Action) String() string { return actionNames[a] }

// ParseAction returns the action of a name.
func ParseAction(name string) (Action, bool) {
	i := slices.Index(actionNames[:], name)
	return Action(max(i, 0)), i > 0
}

// A Reaction is something that a rule wants done when it alerts. Whether it may
// is not for the rule to say: files of rules come from many places.
type Reaction struct {
	Action Action
	// Program is what is run, an absolute path, and its arguments; Timeout how long
	// it may take.
	Program []string
	Timeout time.Duration
	// Webhook is the name of one that the agent knows.
	Webhook string
	// Labels are put on the pod.
	Labels map[string]string
	// Grace is the time that a pod has to end; below zero the pod's own.
	Grace time.Duration
	// DryRun does nothing but find out whether it could be done.
	DryRun bool
	// Once is once for each pod, or container outside of pods, or the host, as long
	// as the agent runs.
	Once bool
	// Limit is how often for each workload.
	Limit Limit
	Place Place
}

// String says what is to be done, and when not.
func (r *Reaction) String() string {
	var what string
	switch r.Action {
	case RunProgram:
		what = "run " + strings.Join(r.Program, " ")
	case CallWebhook:
		what = "call the webhook " + r.Webhook
	case LabelPod:
		what = "label the pod " + joinLabels(r.Labels)
	case DeletePod:
		what = "delete the pod"
		if r.Grace >= 0 {
			what += " within " + r.Grace.String()
		}
	}
	terms := []string{"at most " + r.Limit.String() + " for each workload"}
	if r.Once {
		terms = append(terms, "once for each pod")
	}
	if r.DryRun {
		terms = append(terms, "a dry run")
	}
	return what + " (" + strings.Join(terms, ", ") + ")"
}

func joinLabels(labels map[string]string) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		list = append(list, k+"="+labels[k])
	}
	return strings.Join(list, ",")
}

// A Limit is how often something may be done: so many times in a time that begins
// with the first.
type Limit struct {
	Times int
	Per   time.Duration
}

// String writes a limit as [ParseLimit] reads it.
func (l Limit) String() string { return strconv.Itoa(l.Times) + "/" + shortSpan(l.Per) }

// shortSpan is a duration without units of which there are none.
func shortSpan(d time.Duration) string {
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}

const (
	maxLimit    = 100_000
	maxPer      = 24 * time.Hour
	maxTimeout  = 10 * time.Minute
	maxGrace    = time.Hour
	maxArgs     = 64
	maxLabels   = 16
	maxReaction = 16 // of a rule
)

// What holds of reactions where nothing is said.
const defaultTimeout = 30 * time.Second

var defaultLimit = Limit{5, time.Minute}

// ParseLimit reads a limit: 5/1m is five times a minute.
func ParseLimit(text string) (Limit, error) {
	times, per, _ := strings.Cut(text, "/")
	n, err := strconv.ParseUint(times, 10, 32)
	d, derr := time.ParseDuration(per)
	if err != nil || derr != nil || n == 0 || n > maxLimit || d < time.Second || d > maxPer {
		return Limit{}, fmt.Errorf("%q is no limit, like 5/1m: from 1 to %d times, in 1s to 24h", printable(text), maxLimit)
	}
	return Limit{int(n), d}, nil
}

// reactionKeys are those of one reaction. The first say what is done.
var reactionKeys = []string{"program", "webhook", "pod", "timeout", "grace", "dry-run", "once", "limit"}

// reactions returns what stands behind a rule's key: one reaction, or a list.
// What is not understood of it is an error, where it is a warning elsewhere:
// whoever means dry-run must not write dry_run and have pods deleted.
func (it *item) reactions() (list []Reaction) {
	n := value(it.node, "reaction")
	if n == nil {
		return nil
	}
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	if len(nodes) > maxReaction {
		it.tooManyReactions(nodes[maxReaction])
	}
	for _, n := range nodes {
		if n.Kind != yaml.MappingNode {
			it.fail(n, ErrYAMLValidate, "write program: [/PATH], webhook: NAME or pod: delete", "a reaction is %s and not a mapping", kindName(n))
			return nil
		}
		r := it.reaction(n)
		if it.bad {
			return nil
		}
		list = append(list, r)
	}
	return list
}

func (it *item) tooManyReactions(at *yaml.Node) {
	it.fail(at, ErrYAMLValidate, "", "a rule has %d reactions at most", maxReaction)
}

// overridesReaction refuses a reaction in an item that only changes a rule in one
// of the old ways, which know nothing of it.
func (it *item) overridesReaction() {
	if n := value(it.node, "reaction"); n != nil {
		it.fail(n, ErrYAMLValidate, "add override: with reaction: append, or replace, under it", "this changes a rule, and says nothing of its reaction")
	}
}

func (it *item) reaction(n *yaml.Node) Reaction {
	r := Reaction{Timeout: defaultTimeout, Grace: -1, Limit: defaultLimit, Place: it.src.place(n)}
	it.only(n, reactionKeys)
	var said []string
	for _, key := range reactionKeys[:3] {
		if value(n, key) != nil {
			said = append(said, key)
		}
	}
	switch {
	case len(said) == 0:
		it.fail(n, ErrYAMLValidate, "", "a reaction has program, webhook or pod, and this one none of them")
	case len(said) > 1:
		it.fail(n, ErrYAMLValidate, "make it two elements of a list", "a reaction is one thing, and this one has %s", strings.Join(said, " and "))
	case said[0] == "program":
		r.Action, r.Program = RunProgram, it.argv(value(n, "program"))
	case said[0] == "webhook":
		r.Action, r.Webhook = CallWebhook, it.webhook(n)
	default:
		it.pod(value(n, "pod"), &r)
	}
	if p, ok := it.scalar(n, "timeout", false); ok {
		if r.Action != RunProgram {
			it.fail(p.node, ErrYAMLValidate, "", "timeout is of use to program alone")
		}
		r.Timeout = it.duration(p, "timeout", 100*time.Millisecond, maxTimeout)
	}
	if p, ok := it.scalar(n, "grace", false); ok {
		if r.Action != DeletePod {
			it.fail(p.node, ErrYAMLValidate, "", "grace is of use to pod: delete alone")
		}
		if r.Grace = it.duration(p, "grace", 0, maxGrace); r.Grace%time.Second != 0 {
			it.fail(p.node, ErrYAMLValidate, "", "grace is whole seconds, and not %s", printable(p.text))
		}
	}
	r.DryRun, r.Once = it.flagOf(n, "dry-run", false), it.flagOf(n, "once", false)
	if p, ok := it.scalar(n, "limit", false); ok {
		var err error
		if r.Limit, err = ParseLimit(p.text); err != nil {
			it.fail(p.node, ErrYAMLValidate, "", "%v", err)
		}
	}
	return r
}

// only refuses keys of a mapping that are not known, or stand twice.
func (it *item) only(m *yaml.Node, known []string) {
	seen := map[string]bool{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		k := m.Content[i]
		switch {
		case k.Kind != yaml.ScalarNode:
			it.fail(k, ErrYAMLValidate, "", "a key is %s and not a text", kindName(k))
		case !slices.Contains(known, k.Value):
			it.fail(k, ErrYAMLValidate, cmp.Or(didYouMean(k.Value, known), "the keys are "+strings.Join(known, ", ")), "a reaction has no key %s", printable(k.Value))
		case seen[k.Value]:
			it.fail(k, ErrYAMLValidate, "", "%s stands twice", k.Value)
		}
		seen[k.Value] = true
	}
}

// argv reads a program and its arguments.
func (it *item) argv(n *yaml.Node) (argv []string) {
	const hint = "write [/PATH/OF/PROGRAM, ARGUMENT, ...]: no shell reads it"
	switch {
	case n.Kind != yaml.SequenceNode:
		it.fail(n, ErrYAMLValidate, hint, "program is %s and not a list", kindName(n))
		return nil
	case len(n.Content) == 0:
		it.fail(n, ErrYAMLValidate, hint, "program is an empty list")
		return nil
	case len(n.Content) > maxArgs:
		it.fail(n.Content[maxArgs], ErrYAMLValidate, "", "a program has %d arguments at most", maxArgs-1)
	}
	for _, a := range n.Content {
		if a.Kind != yaml.ScalarNode || strings.ContainsRune(a.Value, 0) {
			it.fail(a, ErrYAMLValidate, hint, "an argument is %s and not a text", kindName(a))
			return nil
		}
		argv = append(argv, a.Value)
	}
	if !path.IsAbs(argv[0]) || path.Clean(argv[0]) != argv[0] {
		it.fail(n.Content[0], ErrYAMLValidate, hint, "%s is no absolute path of a program", printable(argv[0]))
	}
	return argv
}

var webhookName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)

// webhook reads the name of one.
func (it *item) webhook(n *yaml.Node) string {
	p, ok := it.scalar(n, "webhook", true)
	if ok && !webhookName.MatchString(p.text) {
		it.fail(p.node, ErrYAMLValidate, "URLs and secrets are in the agent's configuration, under reactions: webhooks, by name", "%s is no name of a webhook", printable(p.text))
	}
	return p.text
}

// pod reads what is to be done with a pod.
func (it *item) pod(n *yaml.Node, r *Reaction) {
	const hint = "write pod: delete, or pod: {label: {KEY: VALUE}}"
	if n.Kind == yaml.ScalarNode && n.Value == "delete" {
		r.Action = DeletePod
		return
	}
	labels := value(n, "label")
	if labels == nil || len(n.Content) != 2 || labels.Kind != yaml.MappingNode || len(labels.Content) == 0 {
		it.fail(n, ErrYAMLValidate, hint, "this is nothing that can be done with a pod")
		return
	}
	r.Action, r.Labels = LabelPod, map[string]string{}
	if len(labels.Content) > 2*maxLabels {
		it.fail(labels.Content[2*maxLabels], ErrYAMLValidate, "", "a reaction has %d labels at most", maxLabels)
	}
	for i := 0; i+1 < len(labels.Content); i += 2 {
		k, v := labels.Content[i], labels.Content[i+1]
		switch _, twice := r.Labels[k.Value]; {
		case k.Kind != yaml.ScalarNode || !IsLabelKey(k.Value):
			it.fail(k, ErrYAMLValidate, "", "%s cannot be the key of a label", printable(k.Value))
		case v.Kind != yaml.ScalarNode || isNull(v) || v.Value != "" && !isLabelName(v.Value):
			it.fail(v, ErrYAMLValidate, "it is at most 63 letters, digits, -, _ and dots", "%s cannot be the value of a label", printable(v.Value))
		case twice:
			it.fail(k, ErrYAMLValidate, "", "%s stands twice", k.Value)
		}
		r.Labels[k.Value] = v.Value
	}
}

// What Kubernetes takes as labels: a name, with the prefix of a domain or without.
var (
	labelName   = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	labelDomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

func isLabelName(s string) bool { return len(s) <= 63 && labelName.MatchString(s) }

// IsLabelKey reports whether Kubernetes takes a text as the key of a label.
func IsLabelKey(s string) bool {
	domain, name, ok := strings.Cut(s, "/")
	if !ok {
		return isLabelName(s)
	}
	return len(domain) <= 253 && labelDomain.MatchString(domain) && isLabelName(name)
}

// duration reads a time, both bounds included.
func (it *item) duration(p piece, key string, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(p.text)
	if err != nil || d < least || d > most {
		it.fail(p.node, ErrYAMLValidate, "", "%s: %s is no time from %s to %s, like 30s", key, printable(p.text), shortSpan(least), shortSpan(most))
	}
	return d
}
