package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// A ring reads one BPF ring buffer where the kernel wrote it, without copying.
//
// The kernel maps the data twice in a row, so that a record that wraps is
// contiguous. Positions count bytes since the ring was made; they only grow.
// One goroutine reads; any may ask for positions.
type ring struct {
	cons, prod *uint64 // positions, shared with the kernel
	data       []byte  // twice the ring
	mask       uint64

	consPage, prodPages []byte // what is mapped
}

const (
	ringHeader     = 8 // struct bpf_ringbuf_hdr: u32 len, u32 page offset
	ringBusy       = 1 << 31
	ringDiscard    = 1 << 30
	ringLenMask    = ringDiscard - 1
	ringPublishMax = 64 << 10
)

func openRing(m *ebpf.Map) (*ring, error) {
	page, size := os.Getpagesize(), int(m.MaxEntries())
	cons, err := unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap consumer page: %w", err)
	}
	prod, err := unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mmap data: %w", err), unix.Munmap(cons))
	}
	g := newRing(cons, prod, page)
	g.consPage, g.prodPages = cons, prod
	return g, nil
}

// newRing reads the ring whose consumer page is cons and whose producer page,
// followed by the data twice, is prod.
func newRing(cons, prod []byte, page int) *ring {
	data := prod[page:]
	return &ring{
		cons: (*uint64)(unsafe.Pointer(&cons[0])),
		prod: (*uint64)(unsafe.Pointer(&prod[0])),
		data: data,
		mask: uint64(len(data)/2) - 1,
	}
}

func (g *ring) close() error {
	return errors.Join(unix.Munmap(g.prodPages), unix.Munmap(g.consPage))
}

func (g *ring) size() int { return len(g.data) / 2 }

// produced returns the position up to which records are reserved, consumed the
// one up to which they are given back to the kernel.
func (g *ring) produced() uint64 { return atomic.LoadUint64(g.prod) }
func (g *ring) consumed() uint64 { return atomic.LoadUint64(g.cons) }

// read calls fn with each record that begins before the position end, which
// must not lie beyond produced(), and gives the room back as it goes. It stops
// early, and returns false, at a record that is reserved but not yet submitted.
//
// The kernel alone writes the data, so a record that does not fit in what was
// produced cannot be; if there is one all the same, everything up to end is
// skipped and bad is called once.
func (g *ring) read(end uint64, fn func(rec []byte), bad func()) bool {
	pos := g.consumed()
	// Room is given back in steps: each store moves the cache line away from
	// the CPUs that produce. Small rings need it sooner.
	step := min(g.mask/8, ringPublishMax)
	published := pos
	for pos < end {
		at := pos & g.mask
		// Atomic: without the busy bit, the record's bytes are visible too.
		head := atomic.LoadUint32((*uint32)(unsafe.Pointer(&g.data[at])))
		if head&ringBusy != 0 {
			atomic.StoreUint64(g.cons, pos)
			return false
		}
		n := uint64(head & ringLenMask)
		next := pos + ringHeader + (n+7)&^7
		if next > end {
			pos = end
			bad()
			break
		}
		if head&ringDiscard == 0 {
			fn(g.data[at+ringHeader : at+ringHeader+n : at+ringHeader+n])
		}
		pos = next
		if pos-published > step {
			atomic.StoreUint64(g.cons, pos)
			published = pos
		}
	}
	atomic.StoreUint64(g.cons, pos)
	return true
}
