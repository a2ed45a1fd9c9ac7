package cli

import (
	"strconv"

	"warren/api"
)

// alerts shows where alerts go, and what became of them.
func (v *statusView) alerts() {
	st := v.st.Alerts
	if st == nil {
		return
	}
	v.heading("Alert channels")
	if st.Lost > 0 {
		v.line("lost", v.paint(red, strconv.FormatUint(st.Lost, 10)+" alerts on the way to the channels"))
	}
	rows := make([][]cell, len(st.Channels))
	for i, c := range st.Channels {
		lost := count(uint64(c.Lost + c.GivenUp))
		if c.Lost+c.GivenUp > 0 {
			lost.color = red
		}
		rows[i] = []cell{{text: v.safe(c.Name)}, {text: v.safe(c.Type)}, count(uint64(c.Sent)), count(uint64(c.Waiting)), count(uint64(c.Retried)), count(uint64(c.Dead)), lost, {text: v.safe(c.To)}}
	}
	v.rows([]column{{head: "CHANNEL"}, {head: "TYPE"}, {head: "SENT", right: true}, {head: "WAITING", right: true}, {head: "RETRIED", right: true}, {head: "DEAD", right: true}, {head: "LOST", right: true}, {head: "TO"}}, rows)
	for i := range st.Channels {
		v.channel(&st.Channels[i])
	}
}

// channel shows what is wrong with one.
func (v *statusView) channel(c *api.AlertChannel) {
	switch {
	case !c.FailingSince.IsZero():
		v.line(v.safe(c.Name), v.paint(red, "fails since "+span(v.now.Sub(c.FailingSince))+": ")+v.safe(c.Error))
	case c.Error != "":
		v.line(v.safe(c.Name), v.paint(yellow, "refused, and kept in "+v.safe(c.DeadFile)+": ")+v.safe(c.Error))
	}
	if c.DiskError != "" {
		v.line(v.safe(c.Name), v.paint(red, "nothing can be written down: ")+v.safe(c.DiskError))
	}
	if c.Damaged > 0 {
		v.line(v.safe(c.Name), v.paint(red, byteCount(uint64(c.Damaged))+" of what waited cannot be read"))
	}
}
