package netpol

import (
	"fmt"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"

	"warren/cluster"
)

// A Compiler makes Programs of Worlds. What did not change since the last one
// is not computed again: values are taken to be unchanged where the pointers to
// them are equal.
//
// Pods become classes, rules groups of peers; what pods and networks have in
// common with each other, as far as the groups in force can tell, are identities;
// the policies that select a class make a recipe, and recipes make sets. Each
// step looks only at what the step before has changed.
type Compiler struct {
	round uint64 // counts calls of Compile

	namespaces map[string]map[string]string
	spaces     map[string]*space
	classes    map[classID]*class
	byLabel    map[label]map[*class]bool
	pods       map[string]*pod
	nodes      map[string]*node
	places     map[netip.Addr]*place
	policies   map[policyKey]*policy
	tiers      tiers
	groups     map[string]*group // by key
	inForce    map[*group]bool
	names      names
	regions    *regions
	identities map[string]*identity
	byID       map[ID]*identity
	recipes    map[string]*recipe
	sets       map[uint64][]*Set // by a sum of their content
	setUsed    map[SetID]bool

	// The numbers that were given last.
	serial      uint64
	groupNumber uint32
	lastID      ID
	lastRule    RuleID
	lastSet     SetID

	// What one step leaves to the next.
	dirtyClasses map[*class]bool // their signature must be written
	staleClasses map[*class]bool // their policies must be found
	hungry       map[*class]bool // their recipe must be found
	dirtyPlaces  map[netip.Addr]bool
	netsChanged  bool
	rulesChanged bool
	released     []*policy
	unused       []*identity
	retired      []*rule
	shortcuts    map[identityKey]*identity

	last *Program
	next nextProgram

	seed        maphash.Seed
	maxVerdicts int
}

// NewCompiler returns a Compiler that has compiled nothing yet.
func NewCompiler() *Compiler {
	return &Compiler{
		spaces:       make(map[string]*space),
		classes:      make(map[classID]*class),
		byLabel:      make(map[label]map[*class]bool),
		pods:         make(map[string]*pod),
		nodes:        make(map[string]*node),
		places:       make(map[netip.Addr]*place),
		policies:     make(map[policyKey]*policy),
		groups:       make(map[string]*group),
		inForce:      make(map[*group]bool),
		names:        names{rules: make(map[portName]int)},
		regions:      &regions{},
		identities:   make(map[string]*identity),
		byID:         make(map[ID]*identity),
		recipes:      make(map[string]*recipe),
		sets:         make(map[uint64][]*Set),
		setUsed:      make(map[SetID]bool),
		dirtyClasses: make(map[*class]bool),
		staleClasses: make(map[*class]bool),
		hungry:       make(map[*class]bool),
		dirtyPlaces:  make(map[netip.Addr]bool),
		netsChanged:  true,
		rulesChanged: true,
		shortcuts:    make(map[identityKey]*identity),
		last:         &Program{Addresses: make(map[netip.Addr]ID), owners: make(map[netip.Addr]owner)},
		seed:         maphash.MakeSeed(),
		maxVerdicts:  MaxVerdicts,
	}
}

// Compile makes a Program for the pods that subjects reports true for, nil for
// all of them; of policies that are for none of these, only problems are in it.
// After an error, which is ErrWorld, the Compiler is as it was.
func (c *Compiler) Compile(w *World, subjects func(*cluster.Pod) bool) (*Program, error) {
	if err := check(w); err != nil {
		return nil, err
	}
	c.round++
	program := *c.last
	c.next = nextProgram{Program: &program}

	// What there is.
	namespaces := c.setNamespaces(w.Namespaces)
	c.setPods(w, subjects, namespaces)
	c.setNodes(w)
	c.setAllPolicies(w)

	// What is in force.
	for cl := range c.staleClasses {
		c.setPolicies(cl, c.policiesOf(cl))
		if cl.recipe == nil {
			c.hungry[cl] = true
		}
	}
	clear(c.staleClasses)
	c.release()
	c.setNames()

	// Who is who to it.
	if c.netsChanged {
		c.setRegions()
	}
	for cl := range c.dirtyClasses {
		c.setSignature(cl)
	}
	clear(c.dirtyClasses)
	c.setPlaces()
	c.netsChanged = false
	clear(c.dirtyPlaces)
	clear(c.shortcuts)
	c.collect()

	// What it says.
	for cl := range c.hungry {
		if cl.subjects > 0 && cl.recipe == nil {
			c.setRecipe(cl, c.recipeOf(cl))
		}
	}
	clear(c.hungry)
	c.setSets()
	c.setProblems()
	if c.rulesChanged {
		program.Rules = c.ruleTable()
		c.rulesChanged = false
	}
	c.last, c.next = &program, nextProgram{}
	return c.last, nil
}

// check finds what no World can be.
func check(w *World) error {
	pods := make(map[string]bool, len(w.Pods))
	for _, p := range w.Pods {
		key := podKey(p)
		if pods[key] {
			return fmt.Errorf("pod %s/%s (%s) is there twice: %w", p.Namespace, p.Name, p.UID, ErrWorld)
		}
		pods[key] = true
	}
	nodes := make(map[string]bool, len(w.Nodes))
	for _, n := range w.Nodes {
		if nodes[nodeKey(n)] {
			return fmt.Errorf("node %s (%s) is there twice: %w", n.Name, n.UID, ErrWorld)
		}
		nodes[nodeKey(n)] = true
	}
	policies := make(map[policyKey]bool, len(w.Policies))
	for _, p := range w.Policies {
		if policies[keyOf(p)] {
			return fmt.Errorf("policy %s/%s (%s) is there twice: %w", p.Namespace, p.Name, p.UID, ErrWorld)
		}
		policies[keyOf(p)] = true
	}
	return nil
}

// setSets makes the sets that are not what their recipes say, and lists them.
func (c *Compiler) setSets() {
	sets := make(map[SetID]*Set)
	for _, r := range c.recipes {
		if r.isStale() {
			c.make(r)
		}
		sets[r.set.ID] = r.set
	}
	c.collectSets(sets)
	of, selecting := make(map[string]SetID), make(map[string][]*cluster.Policy)
	for key, p := range c.pods {
		if p.subject {
			of[key], selecting[key] = p.class.recipe.set.ID, p.class.told
		}
	}
	c.next.Sets, c.next.SetOf, c.next.Selecting = sets, of, selecting
}

// setProblems lists what is not in force.
func (c *Compiler) setProblems() {
	problems := make(map[string][]string)
	for _, p := range c.policies {
		if len(p.problems) > 0 {
			problems[p.told.UID] = p.problems
		}
	}
	for _, r := range c.recipes {
		if !r.excess {
			continue
		}
		for _, p := range r.policies {
			problem := fmt.Sprintf("a pod that it is for has more than %d verdicts: all it sends and receives is denied", c.maxVerdicts)
			if !slices.Contains(problems[p.told.UID], problem) {
				problems[p.told.UID] = append(slices.Clip(problems[p.told.UID]), problem)
			}
		}
	}
	if !maps.EqualFunc(problems, c.last.Problems, slices.Equal) || c.last.Problems == nil {
		c.next.Problems = problems
	}
}
