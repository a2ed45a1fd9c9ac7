package api

import (
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"warren/event"
)

func TestSelectedFields(t *testing.T) {
	fields, err := Query{"fields": "evt.type,lost.count"}.Fields()
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	out := NewWriter(w, httptest.NewRequest("GET", "/", nil), time.Second, fields)
	exec := &event.Event{Time: time.Unix(1, 0), Data: &event.Exec{Type: "execve"}}
	if err := writeRows(out, []*event.Event{exec}, func(e *event.Event) time.Time { return e.Time }); err != nil {
		t.Fatal(err)
	}
	if got, want := w.Body.String(), `{"evt.type":"execve"}`+"\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	if all, err := (Query{}).Fields(); all != nil || err != nil {
		t.Errorf("without the parameter: %v, %v", all, err)
	}
	for list, want := range map[string]string{
		"evt.type,fd.nmae": `no field "fd.nmae"; did you mean fd.name?`,
		"":                 `no field ""`,
		"evt.type,":        `no field ""`,
		"\x1b[2J":          `no field "\x1b[2J"`,
	} {
		_, err := Query{"fields": list}.Fields()
		var e *Error
		if !errors.As(err, &e) || e.Error() != want {
			t.Errorf("fields=%q: %v, want %s", list, err, want)
		}
	}
}
