package api

import "time"

// AuditState is from where audit events of API servers come, and what became of them
// since the agent started.
type AuditState struct {
	// Listen is the address at which they are told, by HTTPS if TLS; "" for none.
	Listen string `json:"listen,omitempty"`
	TLS    bool   `json:"tls,omitempty"`
	// Log is the file that is followed, "" for none, LogFile which one that is at
	// present, LogOffset how far it was read, and LogError why it cannot be. LogGaps
	// is how often an unknown part of it was missing.
	Log       string `json:"log,omitempty"`
	LogFile   string `json:"log_file,omitempty"`
	LogOffset int64  `json:"log_offset,omitempty"`
	LogGaps   uint64 `json:"log_gaps,omitempty"`
	LogError  string `json:"log_error,omitempty"`
	// Events were taken in; Repeated came again, and changed nothing. Bad could not be
	// read, and TooLarge were too large: both are lost.
	Events   uint64 `json:"events"`
	Repeated uint64 `json:"repeated"`
	Bad      uint64 `json:"bad"`
	TooLarge uint64 `json:"too_large"`
	// Refused are requests of who may not tell anything, or not so.
	Refused uint64 `json:"refused"`
	// Last is when the latest event came, Error what went wrong last, and when.
	Last    time.Time `json:"last,omitzero"`
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`
}
