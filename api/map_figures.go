package api

import (
	"maps"
	"slices"

	"warren/event"
)

// figures are what is counted of connections.
type figures struct {
	connections, failed    uint64
	sent, received         uint64 // by the client
	retransmits            uint64
	rttSum, rttMin, rttMax int64 // nanoseconds
	rttSamples             uint64
	errors                 map[string]uint64 // nil while there are none
}

// maxErrors is how many errors an edge tells apart. The kernel has more.
const (
	maxErrors   = 16
	otherErrors = "other errors"
)

// fail counts an error.
func (f *figures) fail(why string, n uint64) {
	if f.errors == nil {
		f.errors = map[string]uint64{}
	}
	if _, ok := f.errors[why]; !ok && len(f.errors) >= maxErrors-1 {
		why = otherErrors
	}
	f.errors[why] += n
}

// measure counts round-trip times: samples of one mean, between a least and a
// greatest.
func (f *figures) measure(sum, least, most int64, samples uint64) {
	if samples == 0 {
		return
	}
	if f.rttSamples == 0 || least < f.rttMin {
		f.rttMin = least
	}
	f.rttMax = max(f.rttMax, most)
	f.rttSum += sum
	f.rttSamples += samples
}

// add adds what others have counted.
func (f *figures) add(o *figures) {
	f.connections += o.connections
	f.failed += o.failed
	f.sent += o.sent
	f.received += o.received
	f.retransmits += o.retransmits
	f.measure(o.rttSum, o.rttMin, o.rttMax, o.rttSamples)
	if len(o.errors) == 0 {
		return
	}
	for _, why := range slices.Sorted(maps.Keys(o.errors)) {
		f.fail(why, o.errors[why])
	}
}

// edge returns an edge with these figures.
func (f *figures) edge() MapEdge {
	e := MapEdge{Connections: f.connections, Failed: f.failed, BytesSent: f.sent, BytesReceived: f.received, Retransmits: f.retransmits, Errors: maps.Clone(f.errors)}
	if f.rttSamples > 0 {
		e.RTT = &MapRTT{Min: f.rttMin, Mean: f.rttSum / int64(f.rttSamples), Max: f.rttMax, Samples: f.rttSamples}
	}
	return e
}

// figuresOf is the inverse of edge.
func figuresOf(e *MapEdge) figures {
	f := figures{connections: e.Connections, failed: e.Failed, sent: e.BytesSent, received: e.BytesReceived, retransmits: e.Retransmits, errors: e.Errors}
	if r := e.RTT; r != nil {
		f.rttMin, f.rttMax, f.rttSamples = r.Min, r.Max, r.Samples
		f.rttSum = r.Mean * int64(r.Samples)
	}
	return f
}

// trouble returns what a connection failed or broke with, "" if it did not.
func trouble(d *event.Connection) string {
	switch err := d.Error; {
	case err != 0:
		return err.String()
	case d.Type == "connect" && d.Res != 0:
		return d.Res.String()
	case d.Reset == event.NotReset:
		return ""
	case (d.Reset == event.ResetRemote) != d.Server:
		return "reset by server"
	}
	return "reset by client"
}
