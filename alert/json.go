package alert

import (
	"fmt"
	"strconv"
	"time"

	"warren/event"
)

// Falco is how alerts are written in Falco's JSON. The zero value is Falco's
// default.
type Falco struct {
	// NoOutput, NoTags and NoFields leave out what they name.
	NoOutput, NoTags, NoFields bool
	// Message adds the output without time and priority before it.
	Message bool
	// ISOTime writes times as ISO 8601 has them, in UTC, where they are the time of
	// the day in the agent's zone otherwise.
	ISOTime bool
}

// AppendFalco is [Falco.Append] by Falco's default.
func AppendFalco(b []byte, e *event.Event, hostname string) []byte {
	return Falco{}.Append(b, e, hostname)
}

// prefix is what stands before an output.
func (f Falco) prefix(e *event.Event, a *event.Alert) string {
	if f.ISOTime {
		return e.Time.UTC().Format(isoTime) + ": " + a.Priority + " "
	}
	return e.Time.Format(clock+": ") + a.Priority + " "
}

const isoTime = "2006-01-02T15:04:05.000000000-0700"

// Append appends an alert as Falco writes it in JSON, with a uuid beside it. Its
// keys are sorted, as Falco's are. It appends nothing for an event that is no
// alert. An alert of several events says so in its output and in its fields.
func (f Falco) Append(b []byte, e *event.Event, hostname string) []byte {
	a, ok := e.Data.(*event.Alert)
	if !ok {
		return b
	}
	b = append(b, `{"hostname":`...)
	b = event.AppendString(b, hostname)
	if f.Message {
		b = append(b, `,"message":`...)
		b = event.AppendString(b, a.Output+several(a))
	}
	if !f.NoOutput {
		b = append(b, `,"output":`...)
		b = event.AppendString(b, f.prefix(e, a)+a.Output+several(a))
	}
	if !f.NoFields {
		b = f.appendFields(b, e.Time, a)
	}
	b = append(b, `,"priority":`...)
	b = event.AppendString(b, a.Priority)
	b = append(b, `,"rule":`...)
	b = event.AppendString(b, a.Rule)
	b = append(b, `,"source":`...)
	b = event.AppendString(b, a.Source)
	if !f.NoTags {
		b = append(b, `,"tags":[`...)
		for i, tag := range a.Tags {
			if i > 0 {
				b = append(b, ',')
			}
			b = event.AppendString(b, tag)
		}
		b = append(b, ']')
	}
	b = append(b, `,"time":"`...)
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

// appendFields appends the fields of the output, and the time before them.
func (f Falco) appendFields(b []byte, t time.Time, a *event.Alert) []byte {
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
	b = append(b, `"evt.time`...)
	if f.ISOTime {
		b = append(b, `.iso8601":"`...)
		b = t.UTC().AppendFormat(b, isoTime)
		b = append(b, '"')
	} else {
		b = append(b, `":`...)
		b = strconv.AppendInt(b, t.UnixNano(), 10)
	}
	if len(a.Fields) > len("{}") {
		b = append(b, ',')
		return append(b, a.Fields[1:]...)
	}
	return append(b, '}')
}
