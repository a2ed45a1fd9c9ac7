package channel

import (
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// deadLetters is a file of alerts that no receiver will take, each a line of JSON
// with the reason. Where it grows too large, it begins anew, and one old one stays.
type deadLetters struct{ path string }

const (
	deadName = "dead.jsonl"
	maxDead  = 4 << 20
)

// A deadLetter is one line.
type deadLetter struct {
	Time  time.Time       `json:"time"` // when it was given up
	Error string          `json:"error"`
	Alert json.RawMessage `json:"alert"`
}

func (d deadLetters) add(alert []byte, why error) error {
	line, err := json.Marshal(deadLetter{time.Now().UTC(), why.Error(), alert})
	if err != nil { // what was read from the disk is no JSON
		if line, err = json.Marshal(deadLetter{time.Now().UTC(), why.Error(), json.RawMessage(`null`)}); err != nil {
			return err
		}
	}
	if info, err := os.Stat(d.path); err == nil && info.Size()+int64(len(line)) > maxDead {
		if err := os.Rename(d.path, d.path+".1"); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(append(line, '\n')); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
