package api

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"warren/event"
)

func TestSelectedFields(t *testing.T) {
	fields, err := query{"fields": "evt.type,lost.count"}.fields()
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	out := newLines(w, time.Second, fields)
	exec := &event.Event{Time: time.Unix(1, 0), Data: &event.Exec{Type: "execve"}}
	if err := writeEvents(out, []*event.Event{exec}); err != nil {
		t.Fatal(err)
	}
	if got, want := w.Body.String(), `{"evt.type":"execve"}`+"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	if all, err := (query{}).fields(); all != nil || err != nil {
		t.Errorf("without the parameter: %v, %v", all, err)
	}
	for list, want := range map[string]string{
		"evt.type,fd.nmae": `no field "fd.nmae"; did you mean fd.name?`,
		"":                 `no field ""`,
		"evt.type,":        `no field ""`,
		"\x1b[2J":          `no field "\x1b[2J"`,
	} {
		_, err := query{"fields": list}.fields()
		var e *Error
		if !errors.As(err, &e) || e.Error() != want {
			t.Errorf("fields=%q: %v, want %s", list, err, want)
		}
	}
}
