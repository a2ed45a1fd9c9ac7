package event

// Reaction says what became of something that a rule wanted done when it alerted:
// once for each thing and each alert, whether it was done or not. Its process is
// that of the alert, its time that of the outcome.
type Reaction struct {
	Type     string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Rule     string `field:"alert.rule" doc:"name of the rule"`
	Priority string `field:"alert.priority" doc:"how bad it is: Emergency, Alert, Critical, Error, Warning, Notice, Informational, Debug"`
	Alert    string `field:"alert.uuid" doc:"id of the alert that no other has"`
	Action   string `field:"reaction.action" doc:"what the rule wants done: program, webhook, label, delete"`
	Target   string `field:"reaction.target" doc:"to what: the program with its arguments, the webhook's name, the pod as NAMESPACE/NAME"`
	DryRun   bool   `field:"reaction.dry_run,omitzero" doc:"true when nothing was to be done but find out whether it could be"`
	Outcome  string `field:"reaction.outcome" doc:"done, failed, refused (the agent's configuration does not allow it) or limited (there were too many)"`
	Reason   string `field:"reaction.reason" doc:"why it was not done"`
	// Output is what a program or a receiver said last, shortened, and safe to show.
	Output   string `field:"reaction.output" doc:"the end of what the program said, the beginning of what the receiver answered"`
	Attempts uint64 `field:"reaction.attempts,omitzero" doc:"how often it was tried"`
	Took     int64  `field:"reaction.duration,omitzero" type:"duration" doc:"nanoseconds from the first attempt to the outcome"`
	// Times is how many alerts this is about, of which the last is named: of limited
	// ones alone it is more than one.
	Times uint64 `field:"reaction.count,omitzero" doc:"of limited ones, how many: the alert is that of the last"`
}

// Kind implements [Data].
func (*Reaction) Kind() Kind { return KindReaction }

// The outcomes of reactions.
const (
	ReactionDone    = "done"
	ReactionFailed  = "failed"
	ReactionRefused = "refused"
	ReactionLimited = "limited"
)
