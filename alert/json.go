package alert

import (
	"strconv"

	"warren/event"
)

// AppendFalco appends an alert as Falco writes it in JSON, with a uuid beside it.
// Its keys are sorted, as Falco's are. It appends nothing for an event that is no
// alert.
func AppendFalco(b []byte, e *event.Event, hostname string) []byte {
	a, ok := e.Data.(*event.Alert)
	if !ok {
		return b
	}
	b = append(b, `{"hostname":`...)
	b = event.AppendString(b, hostname)
	b = append(b, `,"output":`...)
	b = event.AppendString(b, e.Time.Format("15:04:05.000000000: ")+a.Priority+" "+a.Output)
	b = append(b, `,"output_fields":{"evt.time":`...)
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
