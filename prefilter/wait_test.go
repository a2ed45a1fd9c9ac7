package prefilter

import (
	"errors"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"warren/internal/testkit"
)

// longPrograms runs a program that takes a long time, again and again, on a
// thread of its own, until the function that it returns is called. started counts
// its beginnings and ended its ends, in a map.
func longPrograms(t *testing.T, counts *ebpf.Map) (stop func()) {
	t.Helper()
	add := func(key int32) asm.Instructions {
		return asm.Instructions{
			asm.StoreImm(asm.RFP, -4, int64(key), asm.Word),
			asm.LoadMapPtr(asm.R1, counts.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
			asm.FnMapLookupElem.Call(),
			asm.Instruction{OpCode: asm.JEq.Op(asm.ImmSource), Dst: asm.R0, Offset: 2, Constant: 0},
			asm.Mov.Imm(asm.R1, 1),
			asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		}
	}
	var body asm.Instructions
	body = append(body, add(0)...)
	for range 3000 { // a look-up each: a hundred microseconds
		body = append(body, asm.FnKtimeGetNs.Call())
	}
	body = append(body, add(1)...)
	body = append(body, asm.Mov.Imm(asm.R0, 0), asm.Return())
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: body})
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for {
			select {
			case <-end:
				done <- nil
				return
			default:
			}
			if _, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 64), Repeat: 1}); err != nil {
				done <- err
				return
			}
		}
	}()
	return func() {
		close(end)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestBPFWait: whichever way it waits, programs that had begun before have ended
// after it.
func TestBPFWait(t *testing.T) {
	testkit.NeedRoot(t)
	for name, wait := range map[string]func() error{
		"membarrier":    waitForPrograms,
		"without":       func() error { return waitUnless(unix.EINVAL) },
		"older kernels": func() error { return waitUnless(unix.ENOSYS) },
	} {
		t.Run(name, func(t *testing.T) {
			counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = counts.Close() }()
			count := func(key uint32) (n uint64) {
				if err := counts.Lookup(key, &n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			if runtime.NumCPU() == 1 {
				// No program runs while this one does: there is nothing to see, but
				// that it waits without an error.
				if err := wait(); err != nil {
					t.Fatal(err)
				}
				return
			}
			stop := longPrograms(t, counts)
			defer stop()
			for running := 0; running < 20; {
				begun, before := count(0), count(1)
				if begun <= before {
					continue // none runs at this moment
				}
				running++
				if err := wait(); err != nil {
					t.Fatal(err)
				}
				if ended := count(1); ended < begun {
					t.Fatalf("of %d programs that had begun, %d have ended", begun, ended)
				}
			}
		})
	}
	if err := waitUnless(unix.EFAULT); !errors.Is(err, unix.EFAULT) {
		t.Errorf("what nobody expects is told as %v", err)
	}
}
