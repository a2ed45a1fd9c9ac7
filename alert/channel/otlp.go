package channel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"warren/rule"
)

// An otlp sends logs by OTLP over HTTP, in JSON.
type otlp struct {
	*webhook
	hostname, version string
}

func openOTLP(cfg *Config, env *Env) (sender, error) {
	w, err := newWebhook(cfg, env, jsonType, nil)
	if err != nil {
		return nil, err
	}
	return &otlp{w, env.Hostname, env.Version}, nil
}

// checkOTLP makes the URL complete, as OTLP's exporters do.
func checkOTLP(c *Config) error {
	if err := checkHTTP(c); err != nil {
		return err
	}
	if u, err := url.Parse(c.URL); err == nil && c.URL != "" && (u.Path == "" || u.Path == "/") {
		u.Path = "/v1/logs"
		c.URL = u.String()
	}
	return nil
}

func (o *otlp) send(ctx context.Context, alerts [][]byte) (int, error) {
	views, err := viewsOf(alerts)
	if err != nil {
		return 0, err
	}
	alerts = alerts[:len(views)]
	records := make([]object, len(views))
	for i, v := range views {
		records[i] = logRecord(v)
	}
	body, err := json.Marshal(object{"resourceLogs": []object{{
		"resource":  object{"attributes": []object{attribute("service.name", "warren"), attribute("service.version", o.version), attribute("host.name", o.hostname)}},
		"scopeLogs": []object{{"scope": object{"name": "warren"}, "logRecords": records}},
	}}})
	if err != nil {
		return 0, &refusedError{err}
	}
	said, err := o.post(ctx, body)
	var no *refusedError
	if err == nil {
		err = rejected(said)
	}
	if errors.As(err, &no) && len(alerts) > 1 {
		// Which of them it was is found one by one.
		for i := range alerts {
			if _, err := o.send(ctx, alerts[i:i+1]); err != nil {
				return i, err
			}
		}
		return len(alerts), nil
	}
	if err != nil {
		return 0, err
	}
	return len(alerts), nil
}

// rejected reads what a receiver says of logs that it did not want.
func rejected(said []byte) error {
	var of struct {
		PartialSuccess struct {
			RejectedLogRecords json.RawMessage `json:"rejectedLogRecords"` // a number, or a text with one
			ErrorMessage       string          `json:"errorMessage"`
		} `json:"partialSuccess"`
	}
	_ = json.Unmarshal(said, &of) // what is protobuf, or nothing, says nothing
	text := string(of.PartialSuccess.RejectedLogRecords)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
		return &refusedError{fmt.Errorf("the receiver rejects it%s", excerpt([]byte(of.PartialSuccess.ErrorMessage)))}
	}
	return nil
}

// severities are OTLP's numbers of priorities.
var severities = map[rule.Priority]int{rule.Emergency: 24, rule.Alert: 22, rule.Critical: 21, rule.Error: 17, rule.Warning: 13, rule.Notice: 10, rule.Informational: 9, rule.Debug: 5}

func logRecord(v *View) object {
	attributes := []object{attribute("alert.rule", v.Rule), attribute("alert.source", v.Source), attribute("alert.uuid", v.UUID)}
	if len(v.Tags) > 0 {
		attributes = append(attributes, attribute("alert.tags", v.Tags))
	}
	for _, name := range v.names() {
		attributes = append(attributes, attribute(name, v.Fields[name]))
	}
	return object{
		"timeUnixNano": strconv.FormatInt(v.Time.UnixNano(), 10), "observedTimeUnixNano": strconv.FormatInt(time.Now().UnixNano(), 10),
		"severityNumber": severities[v.level()], "severityText": v.Priority, "eventName": "alert", "body": object{"stringValue": v.Text}, "attributes": attributes,
	}
}

func attribute(key string, v any) object {
	return object{"key": key, "value": anyValue(v)}
}

// anyValue is a value in OTLP's JSON.
func anyValue(v any) object {
	switch v := v.(type) {
	case string:
		return object{"stringValue": v}
	case bool:
		return object{"boolValue": v}
	case json.Number:
		if _, err := v.Int64(); err == nil {
			return object{"intValue": v.String()}
		}
		if f, err := v.Float64(); err == nil {
			return object{"doubleValue": f}
		}
		return object{"stringValue": v.String()}
	case []string:
		values := make([]object, len(v))
		for i, s := range v {
			values[i] = anyValue(s)
		}
		return object{"arrayValue": object{"values": values}}
	case []any:
		values := make([]object, len(v))
		for i, s := range v {
			values[i] = anyValue(s)
		}
		return object{"arrayValue": object{"values": values}}
	}
	return object{"stringValue": fmt.Sprint(v)}
}
