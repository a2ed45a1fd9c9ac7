// Package event defines the one record that travels from a kernel hook to
// every consumer: filters, rules, exporters, the history and the interfaces.
//
// A kind of event is one struct in a file of this package and one line in
// kinds.go. Its tags are the only description of it: filter fields, table
// columns, JSON keys and docs/events.md are all derived from them; see [Field].
//
// Events, and the snapshots they point to, are immutable once emitted:
// consumers run concurrently and keep them as long as they like.
package event

import (
	"strconv"
	"time"
)

// An Event is something that happened, and the process that did it.
type Event struct {
	// Time is the wall clock at the moment the kernel recorded the event.
	Time time.Time `field:"evt.time" doc:"when it happened: RFC 3339 with nanoseconds"`
	// Ktime counts nanoseconds since boot, suspend included (CLOCK_BOOTTIME).
	Ktime uint64 `field:"evt.ktime" doc:"when it happened: nanoseconds since boot, suspend included (CLOCK_BOOTTIME)"`
	// Seq numbers the events of one agent from 1, in the order they were read.
	Seq uint64 `field:"evt.num" doc:"number of the event: counts up from 1 since the agent started"`

	// Actor names the process that acted, as the kernel did. Enrichment
	// resolves it to Process; it is the zero Key where no process acted.
	Actor Key `column:"-"` // by hand, see columnsOfEvent
	// CPU is one more than the number of the processor that it happened on; 0 where
	// that is not known: no record of the kernel's says it.
	CPU uint16 `column:"-"`
	// Process is the snapshot of Actor at the time of the event, nil if unknown.
	Process *Process `column:"-"`
	// Data is what is particular to the kind.
	Data Data `column:"-"`
	// Past is what an event has that comes from the history, nil for others.
	Past *Past `column:"-"`
	// Counted is not nil where this stands for events that were counted in the
	// kernel. Only who said that nothing but numbers are wanted is given such.
	Counted *Counted `column:"-"`

	_ struct{} `field:"evt.kind" type:"string" doc:"kind of the event; several types share one"`
	_ struct{} `field:"evt.hostname" type:"string" doc:"name of the machine"`
	_ struct{} `field:"k8s.node.name" type:"string" doc:"name of the machine as a node of its cluster"`
	_ struct{} `field:"evt.boot_id" type:"string" doc:"id of the machine's current boot"`
	_ struct{} `field:"evt.datetime" type:"string" virtual:"1" doc:"when it happened, as Falco writes it: 2026-02-03 04:05:06.123456789, in the agent's time zone"`
	_ struct{} `field:"evt.datetime.s" type:"string" virtual:"1" doc:"evt.datetime without nanoseconds"`
	_ struct{} `field:"evt.time.s" type:"string" virtual:"1" doc:"time of the day: 04:05:06"`
	_ struct{} `field:"evt.time.iso8601" type:"string" virtual:"1" doc:"when it happened, in UTC: 2026-02-03T04:05:06.123456789+0000"`
	_ struct{} `field:"evt.outputtime" type:"string" virtual:"1" doc:"time of the day with nanoseconds"`
	_ struct{} `field:"evt.count" type:"uint" doc:"how often it happened, in the second that began with it: repeats are one event in the history; absent for once"`
	_ struct{} `field:"evt.time_last" type:"time" doc:"when it happened last, where it happened more than once"`
	_ struct{} `field:"evt.dir" type:"string" virtual:"1" doc:"always <: Falco's name for the end of a call, which is when it is told"`
	_ struct{} `field:"evt.cpu" type:"uint" virtual:"1" doc:"number of the processor that it happened on; absent in events of the history"`
	_ struct{} `field:"evt.rawtime" type:"int" virtual:"1" doc:"when it happened: nanoseconds since 1970"`
	_ struct{} `field:"evt.rawtime.s" type:"int" virtual:"1" doc:"seconds of evt.rawtime"`
	_ struct{} `field:"evt.rawtime.ns" type:"int" virtual:"1" doc:"nanoseconds of evt.rawtime in its second"`
	_ struct{} `field:"evt.source" type:"string" virtual:"1" doc:"Falco's name for where it came from: syscall, or k8s_audit"`
	_ struct{} `field:"evt.type.is" type:"string" virtual:"1" doc:"1 of events of a type, 0 of others: evt.type.is.open"`
	_ struct{} `field:"syscall.type" type:"string" virtual:"1" doc:"evt.type, of what is a system call"`
	_ struct{} `field:"evt.category" type:"string" virtual:"1" doc:"Falco's class of the call: file, net, IPC, memory, process, signal, user, other; of a call on any descriptor file, net, ipc or unknown, by its type"`
	_ struct{} `field:"evt.is_async" type:"bool" virtual:"1" doc:"always false: no event is one of Falco's asynchronous ones"`
	_ struct{} `field:"evt.is_io" type:"bool" virtual:"1" doc:"true of calls that read from a descriptor, or write to one"`
	_ struct{} `field:"evt.is_io_read" type:"bool" virtual:"1" doc:"true of calls that read from a descriptor"`
	_ struct{} `field:"evt.is_io_write" type:"bool" virtual:"1" doc:"true of calls that write to a descriptor"`
	_ struct{} `field:"evt.io_dir" type:"string" virtual:"1" doc:"read or write, of calls that do that"`
	_ struct{} `field:"evt.is_wait" type:"bool" virtual:"1" doc:"always false: no call that only waits is observed"`
	_ struct{} `field:"evt.is_syslog" type:"bool" virtual:"1" doc:"true of calls that write to /dev/log"`
	_ struct{} `field:"evt.count.exit" type:"uint" virtual:"1" doc:"always 1: what is told has happened"`
}

// Past is what an event has that was kept: where it is from, and how many it
// stands for.
type Past struct {
	// Host is the machine, and its boot, that the event is of; nil: this one.
	Host *Host
	// Count is how many events it stands for, Last the time of the latest. Up to 1
	// it is only itself.
	Count uint64
	Last  time.Time
}

// Times returns how many events e stands for: 1 unless it comes from the history,
// or was counted in the kernel.
func (e *Event) Times() uint64 {
	switch {
	case e.Counted != nil:
		return e.Counted.Count
	case e.Past == nil:
		return 1
	}
	return max(1, e.Past.Count)
}

// Data is what is particular to one kind of event. It is always a pointer to
// one of the structs listed in kinds.go.
type Data interface {
	Kind() Kind
}

// Counted is how many events there were beside one that was told, equal to it in
// all that somebody counts by.
type Counted struct {
	Of    *Event
	Count uint64
	// Since is when they began to be counted, or earlier.
	Since time.Time
}

// A Key names a process for as long as the machine runs: process ids are
// reused, but never together with the time their process started.
type Key struct {
	PID   uint32 `column:"pid"`   // in the initial pid namespace; the thread group's
	Start uint64 `column:"start"` // task_struct.group_leader.start_boottime, nanoseconds
}

// IsZero reports whether k names no process.
func (k Key) IsZero() bool { return k == Key{} }

// ExecID returns the name of the process that is unique across machines and
// stable across restarts of the agent: the first 12 digits of the boot id, the
// start time in hexadecimal and the pid, joined by dashes.
func (k Key) ExecID() string {
	return string(host.appendExecID(make([]byte, 0, 40), k))
}

func (h *Host) appendExecID(b []byte, k Key) []byte {
	if k.IsZero() {
		return b
	}
	b = append(b, h.bootShort...)
	b = append(b, '-')
	b = strconv.AppendUint(b, k.Start, 16)
	b = append(b, '-')
	return strconv.AppendUint(b, uint64(k.PID), 10)
}
