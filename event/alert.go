package event

import "time"

// Alert says that an event matched a rule. Its time and its process are those of
// that event.
type Alert struct {
	Type     string   `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Rule     string   `field:"alert.rule" doc:"name of the rule"`
	Priority string   `field:"alert.priority" doc:"how bad it is: Emergency, Alert, Critical, Error, Warning, Notice, Informational, Debug"`
	Source   string   `field:"alert.source" doc:"where the event came from: syscall, or k8s_audit"`
	Output   string   `field:"alert.output" doc:"what the rule says of the event"`
	Fields   string   `field:"alert.output_fields" doc:"fields of the output and their values, as a JSON object"`
	Tags     []string `field:"alert.tags" doc:"tags of the rule"`
	ID       string   `field:"alert.uuid" doc:"id of the alert that no other has"`
	// About is the number of the event, 0 where the alert is about none.
	About uint64 `field:"alert.evt.num,omitzero" doc:"evt.num of the event that matched"`
	// Times is how many events the alert is about. Where a rule matches too often to
	// tell each, and where alerts are like one that was told before, they are told
	// together: First and Last are when, and the event is the last of them.
	Times uint64    `field:"alert.count,omitzero" doc:"how many events matched; more than one where several are told together: too many in a second, or like one that was told before"`
	First time.Time `field:"alert.first" doc:"when the first of several events that are told together happened"`
	Last  time.Time `field:"alert.last" doc:"when the last of them happened"`
	Cause string    `field:"alert.evt.type" doc:"evt.type of the event that matched"`
}

// Kind implements [Data].
func (*Alert) Kind() Kind { return KindAlert }
