package cli

import "slices"

// A place is the columns that say where a process runs: its container, or in a
// cluster its node and pod.
type place struct {
	screen
	node, namespace, pod, container bool
}

// place returns the columns that an answer has.
func (a *answerer) place(s screen, wide bool) place {
	if !a.pods {
		return place{screen: s, container: true}
	}
	return place{screen: s, node: a.cluster, namespace: a.namespace == "", pod: true, container: wide || !a.cluster}
}

// placeFields are what the cells are made of. They are asked for in any case: a
// list shows pods where it has some.
var placeFields = slices.Concat(containerFields, []string{"k8s.node.name", "k8s.ns.name", "k8s.pod.name", "k8s.container.name"})

// withPods returns the columns for a list that is known: those of pods too, if
// there is one.
func (p place) withPods(records []*record) place {
	if !p.pod && slices.ContainsFunc(records, func(r *record) bool { return r.has("k8s.pod.name") }) {
		p.namespace, p.pod = true, true
	}
	return p
}

// columns puts the columns into those of a table, of which container is the one
// of the container alone, at its index. Those of pods come first, behind the
// time of a stream.
func (p place) columns(cols []column, container column, at int, stream bool) []column {
	var mine []column
	node, pod := column{head: "NODE", max: 24, spare: 4}, column{head: "POD", max: 40}
	if stream {
		node.min, pod.min = 8, 24
	}
	if p.node {
		mine = append(mine, node)
	}
	if p.namespace {
		mine = append(mine, column{head: "NAMESPACE", max: 20})
	}
	if p.pod {
		mine = append(mine, pod)
	}
	if p.container {
		mine = append(mine, container)
	}
	return slices.Insert(cols, p.index(at, stream), mine...)
}

// index returns where the columns stand.
func (p place) index(at int, stream bool) int {
	switch {
	case !p.pod:
		return at
	case stream:
		return 1
	}
	return 0
}

// cells puts the cells of the columns into a row. What is in no pod has its container or unit
// in the pod's place, unless that has a column of its own.
func (p place) cells(row []cell, r *record, at int, stream bool) []cell {
	var cells []cell
	if p.node {
		cells = append(cells, cell{text: p.safe(r.str("k8s.node.name"))})
	}
	if p.namespace {
		cells = append(cells, cell{text: p.safe(r.str("k8s.ns.name"))})
	}
	if p.pod {
		pod := cell{text: p.safe(r.str("k8s.pod.name"))}
		if pod.text == "" && !p.container {
			pod = p.containerCell(r)
			pod.color = dim
		}
		cells = append(cells, pod)
	}
	if p.container {
		if name := r.str("k8s.container.name"); name != "" && p.pod {
			cells = append(cells, cell{text: p.safe(name)})
		} else {
			cells = append(cells, p.containerCell(r))
		}
	}
	return slices.Insert(row, p.index(at, stream), cells...)
}
