package cli

import (
	"fmt"
	"strconv"
)

// audit shows from where audit events of API servers come, and what became of them.
func (v *statusView) audit() {
	st := v.st.Audit
	if st == nil {
		return
	}
	v.heading("Kubernetes audit")
	if st.Listen != "" {
		scheme := "http"
		if st.TLS {
			scheme = "https"
		}
		v.line("webhook", scheme+"://"+v.safe(st.Listen)+"/k8s-audit")
	}
	if st.Log != "" {
		text := v.safe(st.Log)
		switch {
		case st.LogError != "":
			text += ": " + v.paint(red, v.safe(st.LogError))
		case st.LogFile == "":
			text += ": there is none yet"
		default:
			text += fmt.Sprintf(", read up to byte %d", st.LogOffset)
			if st.LogFile != st.Log {
				text += " of " + v.safe(st.LogFile)
			}
		}
		v.line("log", text)
	}
	text := strconv.FormatUint(st.Events, 10)
	if !st.Last.IsZero() {
		text += ", the latest " + span(v.now.Sub(st.Last)) + " ago"
	}
	if st.Repeated > 0 {
		text += fmt.Sprintf(", %d came again", st.Repeated)
	}
	v.line("events", text)
	if st.Bad+st.TooLarge+st.Refused > 0 {
		v.line("not taken", v.paint(red, fmt.Sprintf("%d that cannot be read, %d too large, %d requests refused", st.Bad, st.TooLarge, st.Refused)))
	}
	if st.Error != "" {
		v.line("latest", v.safe(st.Error)+" ("+span(v.now.Sub(st.ErrorAt))+" ago)")
	}
}
