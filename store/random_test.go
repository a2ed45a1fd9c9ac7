package store

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"time"

	"warren/cluster"
	"warren/event"
)

// A maker makes events of any kind, with anything in them that an event can have.
type maker struct {
	*rand.Rand
	seq   uint64
	procs []*event.Process
}

func newMaker(seed uint64) *maker { return &maker{Rand: rand.New(rand.NewPCG(seed, 1))} }

var storedKinds = func() (list []event.Kind) {
	for _, k := range event.AllKinds.List() {
		if event.LayoutOf(k) != nil && k != event.KindProcess {
			list = append(list, k)
		}
	}
	return list
}()

// event makes one of a kind, 0 for any.
func (m *maker) event(k event.Kind) *event.Event {
	if k == 0 {
		k = storedKinds[m.IntN(len(storedKinds))]
	}
	m.seq++
	e := event.LayoutOf(k).NewEvent()
	e.Time, e.Ktime, e.Seq = m.time(), m.Uint64N(1<<50), m.seq
	m.fill(reflect.ValueOf(e.Data).Elem())
	if typ := k.Types(); m.IntN(8) > 0 {
		set(e, "Type", typ[m.IntN(len(typ))])
	}
	if s, ok := e.Data.(*event.Syscall); ok && m.IntN(8) > 0 {
		s.Call = &event.Calls[m.IntN(len(event.Calls))]
		s.Type = s.Call.Name
	}
	if m.IntN(4) > 0 {
		e.Process = m.process(0)
	}
	switch m.IntN(4) {
	case 0:
		e.Actor = event.Key{PID: m.Uint32(), Start: m.Uint64()}
	case 1:
	default:
		if e.Process != nil {
			e.Actor = e.Process.Key
		}
	}
	return e
}

func set(e *event.Event, field string, v any) {
	reflect.ValueOf(e.Data).Elem().FieldByName(field).Set(reflect.ValueOf(v))
}

func (m *maker) process(depth int) *event.Process {
	if len(m.procs) > 0 && m.IntN(3) > 0 {
		return m.procs[m.IntN(len(m.procs))]
	}
	p := &event.Process{}
	m.fill(reflect.ValueOf(p).Elem())
	if depth < 6 && m.IntN(4) > 0 {
		p.Parent = m.process(depth + 1)
		if m.IntN(3) > 0 {
			p.ParentKey = p.Parent.Key
		}
	}
	if len(m.procs) < 300 {
		m.procs = append(m.procs, p)
	}
	return p
}

func (m *maker) time() time.Time {
	return time.Unix(1.7e9, 0).Add(time.Duration(m.Int64N(int64(time.Hour))))
}

func (m *maker) text() string {
	switch m.IntN(6) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("a\xff%d", m.IntN(1000))
	case 2:
		return "/usr/bin/some thing/that,is=long|" + fmt.Sprint(m.IntN(5))
	}
	return fmt.Sprint("text", m.IntN(20))
}

func (m *maker) addr() netip.Addr {
	switch m.IntN(5) {
	case 0:
		return netip.Addr{}
	case 1:
		var a [16]byte
		for i := range a {
			a[i] = byte(m.Uint32())
		}
		return netip.AddrFrom16(a)
	case 2:
		return netip.MustParseAddr("::ffff:10.0.0.1")
	}
	return netip.AddrFrom4([4]byte{10, 0, byte(m.IntN(2)), byte(m.IntN(20))})
}

// fill fills a struct, but for what no column keeps.
func (m *maker) fill(v reflect.Value) {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		if !sf.IsExported() || sf.Tag.Get("column") == "-" {
			continue
		}
		m.value(v.Field(i))
	}
}

func (m *maker) value(v reflect.Value) {
	switch v.Interface().(type) {
	case time.Time:
		if m.IntN(3) > 0 {
			v.Set(reflect.ValueOf(m.time()))
		}
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(m.addr()))
		return
	case *event.Call:
		return
	case *cluster.Peer:
		v.Set(reflect.ValueOf(m.peer()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(m.text())
	case reflect.Bool:
		v.SetBool(m.IntN(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt([]int64{0, -1, 1, int64(m.IntN(1000)), int64(int32(m.Uint32()))}[m.IntN(5)])
	case reflect.Uint8:
		v.SetUint(uint64(m.IntN(12)))
	case reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint([]uint64{0, 1, uint64(m.IntN(1000)), m.Uint64()}[m.IntN(4)] & (1<<v.Type().Bits() - 1))
	case reflect.Struct:
		m.fill(v)
	case reflect.Array:
		for i := range v.Len() {
			m.value(v.Index(i))
		}
	case reflect.Slice:
		for range m.IntN(4) {
			x := reflect.New(v.Type().Elem()).Elem()
			m.value(x)
			if a, ok := x.Interface().(netip.Addr); ok && !a.IsValid() {
				continue
			}
			v.Set(reflect.Append(v, x))
		}
	case reflect.Map:
		if n := m.IntN(4); n > 0 {
			labels := map[string]string{}
			for range n {
				labels[fmt.Sprint("key", m.IntN(9))] = m.text()
			}
			v.Set(reflect.ValueOf(labels))
		}
	case reflect.Pointer:
		if m.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			m.value(v.Elem())
		}
	default:
		panic(v.Type())
	}
}

func (m *maker) peer() *cluster.Peer {
	p := &cluster.Peer{Kind: cluster.PeerWorld}
	switch m.IntN(5) {
	case 0:
		return nil
	case 1:
		p.Kind, p.Pod = cluster.PeerPod, &cluster.Pod{}
		m.fill(reflect.ValueOf(p.Pod).Elem())
	case 2:
		p.Kind, p.Service = cluster.PeerService, &cluster.Service{Namespace: m.text(), Name: m.text()}
	case 3:
		p.Kind, p.Node = cluster.PeerNode, &cluster.Node{Name: m.text()}
	}
	return p
}
