package reaction

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"warren/alert/channel"
	"warren/rule"
	"warren/settings"
)

// Config is what rules may have done. The zero value allows nothing.
type Config struct {
	// Enabled allows reactions at all, DryRun makes each a dry run.
	Enabled, DryRun bool
	// Limit is how many of all rules; zero stands for defaultLimit.
	Limit rule.Limit
	// Programs are the absolute paths of those that may be run.
	Programs []string
	// Webhooks are those that may be called, by their names.
	Webhooks []channel.Config
	// Pods is what may be done with pods: [rule.LabelPod], [rule.DeletePod].
	Pods []rule.Action
	// Labels are the keys of labels that rules may put on pods; none for all.
	Labels []string
	// Namespaces are those whose pods may be meant, none for all but Protected; these
	// are never. Nil stands for those of the cluster itself and the agent's own.
	Namespaces, Protected []string
}

var defaultLimit = rule.Limit{Times: 60, Per: time.Minute}

// clusterNamespaces are Kubernetes's own.
var clusterNamespaces = []string{"kube-system", "kube-public", "kube-node-lease"}

// Options are the keys of what rules may have done.
func Options() []settings.Option[Config] {
	last := func(c *Config) *channel.Config { return &c.Webhooks[len(c.Webhooks)-1] }
	return []settings.Option[Config]{
		{Key: "enabled", Doc: "true has done what rules say under reaction, as far as the other keys allow it (false)", Set: settings.Bool(func(c *Config) *bool { return &c.Enabled })},
		{Key: "dry-run", Doc: "true does nothing but find out whether it could be done (false)", Set: settings.Bool(func(c *Config) *bool { return &c.DryRun })},
		{Key: "limit", Doc: "how many there are at most, of all rules together (60/1m)", Set: func(c *Config, v string) (err error) {
			c.Limit, err = rule.ParseLimit(v)
			return err
		}},
		{Key: "programs", Doc: "absolute paths of programs that rules may run, by comma", Set: setPrograms},
		{Key: "webhooks", Doc: "webhooks that rules may call, by name; keys are those of a channel in docs/alerts.md", Check: func(c *Config) error {
			if err := last(c).CheckCall(); err != nil {
				return err
			}
			all := c.Webhooks[:len(c.Webhooks)-1]
			if name := last(c).Name; slices.ContainsFunc(all, func(o channel.Config) bool { return o.Name == name }) {
				return fmt.Errorf("two webhooks have the name %s", name)
			}
			return nil
		}, Item: func(c *Config) { c.Webhooks = append(c.Webhooks, channel.Config{}) }, Sub: settings.Within(channel.CallOptions(), last)},
		{Key: "pods", Doc: "what rules may do with pods of this node: label, delete, or both, by comma", Set: setPods},
		{Key: "labels", Doc: "keys of the labels that rules may put on pods, by comma; without it all", Set: setLabels},
		{Key: "namespaces", Doc: "namespaces whose pods that may be done with, by comma; without it all that are not protected", Set: namespaces(func(c *Config) *[]string { return &c.Namespaces })},
		{Key: "protected-namespaces", Doc: "namespaces whose pods are left alone, by comma, or off for none; without it kube-system, kube-public, kube-node-lease and the agent's own, but for those of namespaces", Set: func(c *Config, v string) error {
			if v == settings.Off {
				c.Protected = []string{}
				return nil
			}
			return namespaces(func(c *Config) *[]string { return &c.Protected })(c, v)
		}},
	}
}

func setPrograms(c *Config, v string) error {
	var list []string
	for p := range strings.SplitSeq(v, ",") {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p || strings.ContainsRune(p, 0) {
			return fmt.Errorf("%q is no absolute path of a program", p)
		}
		list = append(list, p)
	}
	c.Programs = list
	return nil
}

func setPods(c *Config, v string) error {
	var list []rule.Action
	for name := range strings.SplitSeq(v, ",") {
		a, ok := rule.ParseAction(name)
		if !ok || a != rule.LabelPod && a != rule.DeletePod {
			return fmt.Errorf("%q is neither label nor delete", name)
		}
		list = append(list, a)
	}
	c.Pods = list
	return nil
}

func setLabels(c *Config, v string) error {
	var list []string
	for key := range strings.SplitSeq(v, ",") {
		if !rule.IsLabelKey(key) {
			return fmt.Errorf("%q cannot be the key of a label", key)
		}
		list = append(list, key)
	}
	c.Labels = list
	return nil
}

var namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

func namespaces(at func(*Config) *[]string) func(*Config, string) error {
	return func(c *Config, v string) error {
		var list []string
		for name := range strings.SplitSeq(v, ",") {
			if !namespaceName.MatchString(name) {
				return fmt.Errorf("%q cannot be a namespace's name", name)
			}
			list = append(list, name)
		}
		*at(c) = list
		return nil
	}
}

// Check says whether what was set goes together.
func (c *Config) Check() error {
	for _, ns := range c.Namespaces {
		if slices.Contains(c.Protected, ns) {
			return fmt.Errorf("namespace %s is among namespaces and among protected-namespaces", ns)
		}
	}
	if !c.Enabled && c.DryRun {
		return errors.New("dry-run without enabled: true is of no use: nothing is done, and nothing found out")
	}
	return nil
}
