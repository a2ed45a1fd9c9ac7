package alert

import (
	"fmt"
	"strconv"

	"warren/event"
)

// AppendFalco appends an alert as Falco writes it in JSON, with a uuid beside it.
// Its keys are sorted, as Falco's are. It appends nothing for an event that is no
// alert. An alert of several events says so in its
// output and in its fields.
func AppendFalco(b []byte, e *event.Event, hostname string) []byte {
	a, ok := e.Data.(*event.Alert)
	if !ok {
		return b
	}
	b = append(b, `{"hostname":`...)
	b = event.AppendString(b, hostname)
	b = append(b, `,"output":`...)
	b = event.AppendString(b, e.Time.Format(clock+": ")+a.Priority+" "+a.Output+several(a))
	b = append(b, `,"output_fields":{`...)
	if !a.First.IsZero() {
		b = append(b, `"alert.count":`...)
		b = strconv.AppendUint(b, a.Times, 10)
		b = append(b, `,"alert.first":`...)
		b = strconv.AppendInt(b, a.First.UnixNano(), 10)
		b = append(b, `,"alert.last":`...)
		b = strconv.AppendInt(b, a.Last.UnixNano(), 10)
		b = append(b, ',')
	}
	b = append(b, `"evt.time":`...)
	b = strconv.AppendInt(b, e.Time.UnixNano(), 10)
	if len(a.Fields) > len("{}") {
		b = append(b, ',')
		b = append(b, a.Fields[1:]...)
	} else {
		b = append(b, '}')
	}
	b = append(b, `,"priority":`...)
	b = event.AppendString(b, a.Priority)
	b = append(b, `,"rule":`...)
	b = event.AppendString(b, a.Rule)
	b = append(b, `,"source":`...)
	b = event.AppendString(b, a.Source)
	b = append(b, `,"tags":[`...)
	for i, tag := range a.Tags {
		if i > 0 {
			b = append(b, ',')
		}
		b = event.AppendString(b, tag)
	}
	b = append(b, `],"time":"`...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z")
	b = append(b, `","uuid":`...)
	b = event.AppendString(b, a.ID)
	return append(b, '}')
}

// several says of how many events an alert tells, behind what the rule says; "" of
// one.
func several(a *event.Alert) string {
	if a.First.IsZero() {
		return ""
	}
	return fmt.Sprintf(" | count=%d first=%s last=%s", a.Times, a.First.Format(clock), a.Last.Format(clock))
}

// clock is how Falco writes times of day.
const clock = "15:04:05.000000000"
