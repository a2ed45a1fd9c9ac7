package rule

import (
	"fmt"
	"strconv"

	"warren/event"
)

// renders are fields whose text in outputs is Falco's, and not what the field
// has. They report false where there is nothing.
var renders = map[string]func(b []byte, e *event.Event) ([]byte, bool){
	"evt.time": func(b []byte, e *event.Event) ([]byte, bool) {
		return e.Time.AppendFormat(b, "15:04:05.000000000"), true
	},
	"evt.rawtime.ns": func(b []byte, e *event.Event) ([]byte, bool) {
		return fmt.Appendf(b, "%09d", e.Time.Nanosecond()), true
	},
	"evt.count": func(b []byte, e *event.Event) ([]byte, bool) { return strconv.AppendUint(b, e.Times(), 10), true },
	"proc.cwd": func(b []byte, e *event.Event) ([]byte, bool) {
		if e.Process == nil || e.Process.Cwd == "" {
			return b, false
		}
		b = append(b, e.Process.Cwd...)
		if b[len(b)-1] != '/' {
			b = append(b, '/')
		}
		return b, true
	},
	"proc.apid": func(b []byte, e *event.Event) ([]byte, bool) {
		if e.Process == nil {
			return b, false
		}
		return strconv.AppendUint(b, uint64(e.Process.PID), 10), true
	},
	"proc.aname":     ancestry("proc.aname"),
	"proc.aexe":      ancestry("proc.aexe"),
	"proc.aexepath":  ancestry("proc.aexepath"),
	"proc.aargs":     ancestry("proc.aargs"),
	"proc.acmdline":  ancestry("proc.acmdline"),
	"k8s.pod.ip":     fieldText("container.ip"),
	"evt.arg.fd":     argText("fd"),
	"evt.arg.flags":  argText("flags"),
	"evt.arg.nstype": argText("nstype"),
	"fd.dev": func(b []byte, e *event.Event) ([]byte, bool) {
		n, ok := number("fd.dev")(e)
		if !ok {
			return b, false
		}
		at := len(b)
		b = strconv.AppendUint(b, event.UserDevice(uint64(n)), 16)
		for i := at; i < len(b); i++ {
			if b[i] >= 'a' {
				b[i] -= 'a' - 'A'
			}
		}
		return b, true
	},
}

// numbers are those of [renders] that are JSON numbers all the same, and moments
// that Falco has as such.
var numbers = map[string]func(e *event.Event) (int64, bool){
	"evt.count":          func(e *event.Event) (int64, bool) { return int64(e.Times()), true },
	"evt.rawtime.ns":     number("evt.rawtime.ns"),
	"evt.outputtime":     func(e *event.Event) (int64, bool) { return e.Time.UnixNano(), true },
	"proc.apid":          number("proc.apid"),
	"container.start_ts": number("container.start_ts"),
}

// instead is what stands for the value of fields that an event does not have, and
// Falco has of every one.
var instead = map[string]func(e *event.Event) string{
	"evt.is_open_read":   no,
	"evt.is_open_write":  no,
	"evt.is_open_exec":   no,
	"evt.is_open_create": no,
	"container.full_id": func(e *event.Event) string {
		if e.Process != nil && e.Process.Container == nil {
			return "host"
		}
		return ""
	},
}

func no(*event.Event) string { return "false" }

// ancestry is what all ancestors have, nearest first, with blanks between.
func ancestry(name string) func([]byte, *event.Event) ([]byte, bool) {
	f, _ := event.Lookup(name)
	return func(b []byte, e *event.Event) ([]byte, bool) {
		if e.Process == nil || e.Process.Parent == nil {
			return b, false
		}
		for p := e.Process.Parent; p != nil; p = p.Parent {
			if p != e.Process.Parent {
				b = append(b, ' ')
			}
			s, _ := f.StrOf(p)
			b = append(b, s...)
		}
		return b, true
	}
}

// fieldText is the text of another field.
func fieldText(name string) func([]byte, *event.Event) ([]byte, bool) {
	f, _ := event.Lookup(name)
	return func(b []byte, e *event.Event) ([]byte, bool) { return f.Append(b, e, 0) }
}

// argText is an argument of the call as text, also where the field of that name is
// a number, or has no text for 0.
func argText(name string) func([]byte, *event.Event) ([]byte, bool) {
	f, _ := event.Lookup("evt.arg")
	return func(b []byte, e *event.Event) ([]byte, bool) {
		s, ok := f.Key(e, name)
		return append(b, s...), ok
	}
}

func number(name string) func(*event.Event) (int64, bool) {
	f, _ := event.Lookup(name)
	return func(e *event.Event) (int64, bool) { return f.Num(e, 0) }
}
