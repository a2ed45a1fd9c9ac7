package channel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"warren/rule"
)

// A View is an alert as templates see it.
type View struct {
	Time                                           time.Time
	Rule, Priority, Output, Source, Hostname, UUID string
	Tags                                           []string
	// Text is Output without time and priority before it.
	Text string
	// Fields are those of the output, by their names.
	Fields map[string]any
}

// viewOf reads an alert as Falco writes it.
func viewOf(alert []byte) (*View, error) {
	var of struct {
		View
		Values map[string]any `json:"output_fields"`
	}
	d := json.NewDecoder(bytes.NewReader(alert))
	d.UseNumber()
	if err := d.Decode(&of); err != nil {
		return nil, err
	}
	v := of.View
	v.Fields, v.Text = of.Values, v.Output
	if _, text, ok := strings.Cut(v.Output, ": "+v.Priority+" "); ok {
		v.Text = text
	}
	return &v, nil
}

// viewsOf reads alerts up to one that cannot be read: that is an error only where
// none stands before it, for those can be sent first.
func viewsOf(alerts [][]byte) (views []*View, err error) {
	for _, a := range alerts {
		v, err := viewOf(a)
		if err != nil {
			if len(views) == 0 {
				return nil, &refusedError{err}
			}
			break
		}
		views = append(views, v)
	}
	return views, nil
}

// names are those of fields that have a value, sorted, but for the time.
func (v *View) names() []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(v.Fields)) {
		if v.Fields[name] != nil && !isTime(name) {
			list = append(list, name)
		}
	}
	return list
}

// level is how bad it is.
func (v *View) level() rule.Priority {
	p, ok := rule.ParsePriority(v.Priority)
	if !ok {
		return rule.Notice
	}
	return p
}

// maxBody bounds what a template makes, in bytes.
const maxBody = 1 << 20

var errLarge = errors.New("the template makes too much")

// bounded is a buffer that takes no more than maxBody.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxBody {
		return 0, errLarge
	}
	return b.Buffer.Write(p)
}

// parseTemplate reads a user's template.
func parseTemplate(text string) (*template.Template, error) {
	return template.New("template").Option("missingkey=zero").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := json.Marshal(v)
			return string(b), err
		},
		"upper": strings.ToUpper,
		"lower": strings.ToLower,
		"join":  strings.Join,
		"cut":   cut,
	}).Parse(text)
}

// templated makes bodies by the template of a channel.
func templated(cfg *Config) (func([]byte) ([]byte, error), error) {
	text := cfg.Template
	if cfg.TemplateFile != "" {
		b, err := os.ReadFile(cfg.TemplateFile)
		if err != nil {
			return nil, err
		}
		text = string(b)
	}
	t, err := parseTemplate(text)
	if err != nil {
		return nil, err
	}
	return func(alert []byte) ([]byte, error) {
		v, err := viewOf(alert)
		if err != nil {
			return nil, err
		}
		var b bounded
		if err := t.Execute(&b, v); err != nil {
			return nil, err
		}
		return b.Bytes(), nil
	}, nil
}

// cut shortens text to so many characters.
func cut(most int, s string) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most-1]) + "…"
}

type object = map[string]any

// shaped makes bodies by a function of what an alert says.
func shaped(shape func(*View) (object, error)) func([]byte) ([]byte, error) {
	return func(alert []byte) ([]byte, error) {
		v, err := viewOf(alert)
		if err != nil {
			return nil, err
		}
		o, err := shape(v)
		if err != nil {
			return nil, err
		}
		return json.Marshal(o)
	}
}

// maxFacts is how many fields people are shown.
const maxFacts = 20

// slack is a message of an incoming webhook.
func slack(v *View) (object, error) {
	escape := strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace
	var fields []object
	for _, name := range v.names() {
		if len(fields) == maxFacts {
			break
		}
		value := cut(200, fmt.Sprint(v.Fields[name]))
		fields = append(fields, object{"title": name, "value": escape(value), "short": len(value) < 40})
	}
	color := "#888888"
	switch p := v.level(); {
	case p <= rule.Error:
		color = "#d00000"
	case p <= rule.Notice:
		color = "#e0a000"
	}
	title := v.Priority + ": " + v.Rule
	return object{"attachments": []object{{
		"color": color, "fallback": escape(cut(500, title+": "+v.Text)), "title": escape(cut(200, title)), "text": escape(cut(3000, v.Text)), "fields": fields,
		"footer": escape(v.Hostname + " " + v.UUID), "ts": v.Time.Unix(),
	}}}, nil
}

// teams is a message with an adaptive card, as a workflow of Teams takes it.
func teams(v *View) (object, error) {
	facts := []object{{"title": "host", "value": v.Hostname}, {"title": "time", "value": v.Time.Format(time.RFC3339)}, {"title": "uuid", "value": v.UUID}}
	for _, name := range v.names() {
		if len(facts) >= maxFacts {
			break
		}
		facts = append(facts, object{"title": name, "value": cut(200, fmt.Sprint(v.Fields[name]))})
	}
	color := "default"
	switch p := v.level(); {
	case p <= rule.Error:
		color = "attention"
	case p <= rule.Notice:
		color = "warning"
	}
	return object{"type": "message", "attachments": []object{{
		"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": nil,
		"content": object{"$schema": "http://adaptivecards.io/schemas/adaptive-card.json", "type": "AdaptiveCard", "version": "1.4", "body": []object{
			{"type": "TextBlock", "text": cut(200, v.Priority+": "+v.Rule), "weight": "bolder", "size": "medium", "color": color, "wrap": true},
			{"type": "TextBlock", "text": cut(3000, v.Text), "wrap": true},
			{"type": "FactSet", "facts": facts},
		}},
	}}}, nil
}

// pagerduty is an event of PagerDuty's Events API, version 2.
func pagerduty(keyFile string) func(*View) (object, error) {
	return func(v *View) (object, error) {
		key, err := secret(keyFile)
		if err != nil {
			return nil, &absentError{err}
		}
		severity := "info"
		switch p := v.level(); {
		case p <= rule.Critical:
			severity = "critical"
		case p == rule.Error:
			severity = "error"
		case p <= rule.Notice:
			severity = "warning"
		}
		return object{"routing_key": key, "event_action": "trigger", "dedup_key": v.UUID, "payload": object{
			"summary": cut(1024, v.Rule+": "+v.Text), "source": v.Hostname, "severity": severity, "timestamp": v.Time.Format(time.RFC3339Nano),
			"group": v.Rule, "class": v.Source, "custom_details": object{"output": v.Output, "fields": v.Fields, "tags": v.Tags},
		}}, nil
	}
}

// An absentError says that something here is missing, which is no fault of the
// alert.
type absentError struct{ err error }

func (e *absentError) Error() string { return e.err.Error() }
func (e *absentError) Unwrap() error { return e.err }

func openSlack(cfg *Config, env *Env) (sender, error) {
	return newWebhook(cfg, env, jsonType, shaped(slack))
}
func openTeams(cfg *Config, env *Env) (sender, error) {
	return newWebhook(cfg, env, jsonType, shaped(teams))
}

func openPagerDuty(cfg *Config, env *Env) (sender, error) {
	c := *cfg
	if c.URL == "" && c.URLFile == "" {
		c.URL = "https://events.pagerduty.com/v2/enqueue"
	}
	return newWebhook(&c, env, jsonType, shaped(pagerduty(cfg.KeyFile)))
}

const jsonType = "application/json"
