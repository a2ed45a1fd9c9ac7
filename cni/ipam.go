package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"warren/api"
	"warren/internal/netdump"
)

// quarantine is for how long an address that was released is given to others
// only if there is no other: who talked to its last owner may not have heard.
const quarantine = time.Minute

// exhaustedError says that all addresses of a family are in use.
type exhaustedError struct {
	networks []netip.Prefix
	used     int
}

// Error implements error.
func (e *exhaustedError) Error() string {
	return fmt.Sprintf("all addresses of %s are in use: %d attachments have one", joinPrefixes(e.networks), e.used)
}

func joinPrefixes(list []netip.Prefix) string {
	s := ""
	for i, p := range list {
		if i > 0 {
			s += ", "
		}
		s += p.String()
	}
	return s
}

// reserve writes the record of an attachment, with an address of each family of
// the node's networks. What there is already of the attachment keeps its
// addresses, as long as they are the node's: then again is true. elsewhere are
// addresses that are in use though no record has them.
func (s *state) reserve(want record, n Node, elsewhere map[netip.Addr]bool) (_ *record, again bool, err error) {
	l, err := s.lock(addressLock)
	if err != nil {
		return nil, false, err
	}
	defer l.Close()
	old, err := s.load(want.Attachment)
	if err != nil {
		return nil, false, err
	}
	if again = old != nil && old.Host == want.Host && fits(old.Addrs, n); again {
		want.Addrs = old.Addrs
	} else {
		used, err := s.inUse(want.Attachment, elsewhere, n)
		if err != nil {
			return nil, false, err
		}
		if want.Addrs, err = s.choose(used, n); err != nil {
			return nil, false, err
		}
	}
	want.Boot, want.Made = bootID(), time.Now().UTC()
	if err := s.store(&want); err != nil {
		return nil, false, err
	}
	return &want, again, nil
}

// fits reports whether addresses are one of each family of the node's networks.
func fits(addrs []netip.Addr, n Node) bool {
	for _, family := range n.families() {
		in := slices.ContainsFunc(addrs, func(a netip.Addr) bool {
			return slices.ContainsFunc(family, func(p netip.Prefix) bool { return p.Contains(a) })
		})
		if !in {
			return false
		}
	}
	return len(addrs) == len(n.families()) && !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return slices.Contains(n.Reserved, a) })
}

// families returns the networks of IPv4 and those of IPv6, without what is
// empty.
func (n *Node) families() (list [][]netip.Prefix) {
	var four, six []netip.Prefix
	for _, p := range n.PodCIDRs {
		if p.Addr().Is4() {
			four = append(four, p)
		} else {
			six = append(six, p)
		}
	}
	for _, f := range [][]netip.Prefix{four, six} {
		if f != nil {
			list = append(list, f)
		}
	}
	return list
}

// occupied are addresses that cannot be given, or should not: those have the
// time of their release.
type occupied struct {
	used     map[netip.Addr]bool
	released map[netip.Addr]time.Time
}

// inUse reads what all attachments but one have. A record that cannot be read is
// an error: its address is not known, so any could be it.
func (s *state) inUse(but api.Attachment, elsewhere map[netip.Addr]bool, n Node) (occupied, error) {
	o := occupied{map[netip.Addr]bool{}, map[netip.Addr]time.Time{}}
	list, broken, err := s.records()
	if err != nil {
		return o, err
	}
	for _, err := range broken {
		return o, fmt.Errorf("which addresses are free is not known, GC or DEL of its container removes this: %w", err)
	}
	boot := bootID()
	for _, r := range list {
		switch {
		case r.Attachment == but:
		case boot != "" && r.Boot != "" && r.Boot != boot:
			// The machine was started anew since: its containers are gone.
			if err := s.release(r.Attachment); err != nil {
				return o, err
			}
		default:
			for _, a := range r.Addrs {
				o.used[a] = true
			}
		}
	}
	maps.Copy(o.used, elsewhere)
	for _, a := range n.Reserved {
		o.used[a] = true
	}
	return o, s.readReleased(o.released)
}

// readReleased reads what was released lately and forgets what was not.
func (s *state) readReleased(released map[netip.Addr]time.Time) error {
	names, err := s.names(releasedDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(s.dir, releasedDir, name)
		fi, err := os.Lstat(path)
		if err != nil {
			continue // somebody has removed it: it was no more than advice
		}
		r, err := readRecord(path)
		if age := time.Since(fi.ModTime()); err != nil || age > quarantine || age < -quarantine {
			if err := os.Remove(path); err != nil {
				return err
			}
			continue
		}
		for _, a := range r.Addrs {
			released[a] = fi.ModTime()
		}
	}
	return nil
}

// choose picks an address of each family, and remembers them as the last ones.
func (s *state) choose(o occupied, n Node) ([]netip.Addr, error) {
	path := filepath.Join(s.dir, lastFile)
	last := map[netip.Prefix]netip.Addr{}
	if b, err := os.ReadFile(path); err == nil {
		if json.Unmarshal(b, &last) != nil {
			last = map[netip.Prefix]netip.Addr{} // only the order depends on it
		}
	}
	now := map[netip.Prefix]netip.Addr{}
	var addrs []netip.Addr
	for _, family := range n.families() {
		a, p := pick(family, o, last)
		if !a.IsValid() {
			return nil, &exhaustedError{family, len(o.used)}
		}
		addrs, now[p] = append(addrs, a), a
	}
	for _, p := range n.PodCIDRs {
		if _, ok := now[p]; !ok && last[p].IsValid() {
			now[p] = last[p]
		}
	}
	b, err := json.Marshal(now)
	if err != nil {
		return nil, err
	}
	return addrs, writeFile(path, b, 0o600)
}

// pick returns a free address of one of the networks: the next one after the
// last that was given, else the one that was released first. It is invalid if
// there is none.
func pick(networks []netip.Prefix, o occupied, last map[netip.Prefix]netip.Addr) (netip.Addr, netip.Prefix) {
	for _, p := range networks {
		first, final := bounds(p)
		a := last[p]
		if !p.Contains(a) {
			a = final // after which comes the first
		}
		// Each turn meets another address, and one that is occupied unless it is
		// the last turn.
		for range len(o.used) + len(o.released) + 1 {
			if a = a.Next(); !a.IsValid() || a.Compare(final) > 0 || a.Compare(first) < 0 {
				a = first
			}
			if _, lately := o.released[a]; !lately && !o.used[a] {
				return a, p
			}
		}
	}
	var best netip.Addr
	var in netip.Prefix
	for _, a := range slices.SortedFunc(maps.Keys(o.released), netip.Addr.Compare) {
		for _, p := range networks {
			first, final := bounds(p)
			if !o.used[a] && a.Compare(first) >= 0 && a.Compare(final) <= 0 && (!best.IsValid() || o.released[a].Before(o.released[best])) {
				best, in = a, p
			}
		}
	}
	return best, in
}

// bounds returns the first and the last address that a pod can have: the network
// itself and IPv4's broadcast are left out, where there is room.
func bounds(p netip.Prefix) (first, last netip.Addr) {
	first = p.Addr()
	b := first.AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	last, _ = netip.AddrFromSlice(b)
	if p.Addr().BitLen()-p.Bits() < 2 {
		return first, last
	}
	if p.Addr().Is4() {
		last = last.Prev()
	}
	return first.Next(), last
}

// free returns an error if a pod could not have an address now.
func (s *state) free(n Node, network string) error {
	err := s.look(n)
	if !isFull(err) {
		return err
	}
	h, e := netdump.Handle(unix.NETLINK_ROUTE)
	if e != nil {
		return fmt.Errorf("open netlink: %w", e)
	}
	defer h.Close()
	if s.reclaim(h, network) {
		return s.look(n)
	}
	return err
}

func (s *state) look(n Node) error {
	l, err := s.lock(addressLock)
	if err != nil {
		return err
	}
	defer l.Close()
	o, err := s.inUse(api.Attachment{}, nil, n)
	if err != nil {
		return err
	}
	for _, family := range n.families() {
		if a, _ := pick(family, o, nil); !a.IsValid() {
			return &exhaustedError{family, len(o.used)}
		}
	}
	return nil
}

// reclaim takes back the addresses of attachments that nobody will ever delete:
// those whose container's namespace and interface are both gone, of a runtime
// that has forgotten them and never collects. It reports whether there were any.
// It is asked where no address is left, which is the only harm they do.
func (s *state) reclaim(h *netlink.Handle, network string) (some bool) {
	list, _, err := s.records()
	if err != nil {
		return false
	}
	for _, r := range list {
		if _, err := os.Lstat(r.Netns); r.Netns == "" || !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if l, err := byName(h, hostName(network, r.Attachment)); err != nil || l != nil {
			continue
		}
		// Who is at it, for one its DEL, does this.
		l, err := s.tryAttachment(r.Attachment)
		if err != nil {
			continue
		}
		if err = unmapPorts(s, network, key(r.Attachment), r); err == nil {
			err = s.release(r.Attachment)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: take back the addresses of %s: %v\n", Program, r.Attachment, err)
		}
		some = some || err == nil
		_ = l.Close() // lets go of the lock in any case
	}
	return some
}

func isFull(err error) bool {
	var full *exhaustedError
	return errors.As(err, &full)
}
