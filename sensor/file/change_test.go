package file

import (
	"os"
	"os/exec"
	"testing"

	"warren/bpf"
	"warren/event"
)

func TestBPFZZ(t *testing.T) {
	w := start(t, bpf.Config{}, event.Kinds(event.KindFile, event.KindMount, event.KindFileClose))
	logRungs(t, w.sensor)
	_ = os.Getpid
	_ = exec.Command
}
