package channel

import (
	"bytes"
	"encoding/json"
	"strings"

	"warren/alert"
)

// writesJSON reports whether a channel hands over Falco's JSON as it is.
func (c *Config) writesJSON() bool {
	switch c.Type {
	case "stdout", "file", "syslog", "program":
		return c.Format == formatJSON
	case "webhook":
		return c.Template == "" && c.TemplateFile == ""
	case "nats", "kafka":
		return true
	}
	return false
}

// asWanted returns alerts with the keys that f wants, where a channel hands over
// Falco's JSON: others need all of them to make theirs.
func (c *Config) asWanted(f alert.Falco, alerts [][]byte) [][]byte {
	f.ISOTime = false // which they have from the beginning
	if f == (alert.Falco{}) || !c.writesJSON() {
		return alerts
	}
	list := make([][]byte, len(alerts))
	for i, a := range alerts {
		list[i] = rewritten(f, a)
	}
	return list
}

// rewritten returns an alert with the keys that f wants.
func rewritten(f alert.Falco, text []byte) []byte {
	var keys map[string]json.RawMessage
	if json.Unmarshal(text, &keys) != nil {
		return text
	}
	if f.Message {
		v, err := viewOf(text)
		if err != nil {
			return text
		}
		said := v.Text
		if b, err := marshal(said); err == nil {
			keys["message"] = b
		}
	}
	for key, drop := range map[string]bool{"output": f.NoOutput, "tags": f.NoTags, "output_fields": f.NoFields} {
		if drop {
			delete(keys, key)
		}
	}
	b, err := marshal(keys)
	if err != nil {
		return text
	}
	return b
}

// marshal writes JSON without the escapes that are for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// isTime reports whether a field is the time before an output.
func isTime(name string) bool { return name == "evt.time" || strings.HasPrefix(name, "evt.time.iso") }
