package filter

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"warren/cluster"
	"warren/event"
)

// caret shows the place of an error.
func caret(err error) string {
	var at *Error
	if !errors.As(err, &at) {
		return ""
	}
	return at.Caret()
}

func mustCompile(tb testing.TB, expr string) *Program {
	tb.Helper()
	p, err := Compile(expr)
	if err != nil {
		tb.Fatalf("%v\n%s", err, caret(err))
	}
	return p
}

// newEvent builds an event from lines like
//
//	kind = connection
//	fd.rip = 10.0.0.1
//	proc.aname = bash, sshd, systemd
//	proc.argv = curl, -s
//
// Fields are those of structs, not derived ones. A value can be quoted as in Go.
func newEvent(lines string) (*event.Event, error) {
	b := &builder{e: &event.Event{Time: time.Unix(1_700_000_000, 123456789), Ktime: 10_000_000_000, Seq: 7}}
	for _, line := range strings.Split(lines, "\n") {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not NAME = VALUE", line)
		}
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if err := b.set(name, value); err != nil {
			return nil, fmt.Errorf("%s: %w", line, err)
		}
	}
	if b.e.Data == nil {
		return nil, errors.New("a line kind = NAME is missing")
	}
	return b.e, nil
}

// dataOf returns an empty event of each kind.
var dataOf = map[event.Kind]func() event.Data{
	event.KindExec:        func() event.Data { return new(event.Exec) },
	event.KindFork:        func() event.Data { return new(event.Fork) },
	event.KindExit:        func() event.Data { return new(event.Exit) },
	event.KindCredentials: func() event.Data { return new(event.Credentials) },
	event.KindNamespace:   func() event.Data { return new(event.Namespace) },
	event.KindConnection:  func() event.Data { return new(event.Connection) },
	event.KindDNS:         func() event.Data { return new(event.DNS) },
	event.KindLost:        func() event.Data { return new(event.Lost) },
	event.KindProcess:     func() event.Data { return new(event.ProcessState) },
	event.KindCgroup:      func() event.Data { return new(event.CgroupState) },
	event.KindNodes:       func() event.Data { return new(event.Nodes) },
	event.KindFlow:        func() event.Data { return new(event.Flow) },
	event.KindSocket:      func() event.Data { return new(event.SocketState) },
	event.KindOpen:        func() event.Data { return new(event.Open) },
	event.KindFile:        func() event.Data { return new(event.File) },
	event.KindMount:       func() event.Data { return new(event.Mount) },
	event.KindFileClose:   func() event.Data { return new(event.FileClose) },
	event.KindSyscall:     func() event.Data { return &event.Syscall{FD: -1} },
	event.KindAttempt:     func() event.Data { return new(event.Attempt) },
	event.KindAlert:       func() event.Data { return new(event.Alert) },
	event.KindReaction:    func() event.Data { return new(event.Reaction) },
	event.KindK8sAudit:    func() event.Data { return new(event.K8sAudit) },
}

type builder struct {
	e *event.Event
}

func (b *builder) process(generation int) *event.Process {
	p := &b.e.Process
	for ; ; generation-- {
		if *p == nil {
			*p = new(event.Process)
		}
		if generation == 0 {
			return *p
		}
		p = &(*p).Parent
	}
}

func (b *builder) set(name, value string) error {
	if unquoted, err := strconv.Unquote(value); err == nil {
		value = unquoted
	}
	if name == "kind" {
		k, ok := event.LookupKind(value)
		if !ok {
			return fmt.Errorf("no kind %s", value)
		}
		b.e.Data = dataOf[k]()
		for _, typ := range k.Types()[:1] {
			return b.set("evt.type", typ)
		}
	}
	if field, key, ok := strings.Cut(name, "["); ok {
		var labels *map[string]string
		switch field {
		case "container.label":
			labels = &b.container().Labels
		case "k8s.pod.labels":
			labels = &b.pod().Labels
		case "k8s.ns.labels":
			labels = &b.pod().NamespaceLabels
		default:
			return errors.New("no struct has such keys")
		}
		if *labels == nil {
			*labels = map[string]string{}
		}
		(*labels)[strings.TrimSuffix(key, "]")] = value
		return nil
	}
	switch name {
	case "k8s.pod.ip":
		for _, s := range strings.Split(value, ", ") {
			a, err := netip.ParseAddr(s)
			if err != nil {
				return err
			}
			b.pod().Addrs = append(b.pod().Addrs, a)
		}
		return nil
	case "k8s.remote.svc.name":
		event.SocketOf(b.e).RemotePeer = &cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Name: value}}
		return nil
	}
	if b.e.Data != nil {
		if f, ok := fieldTagged(reflect.ValueOf(b.e.Data).Elem(), "field", name); ok {
			return setValue(f, value)
		}
	}
	if f, ok := fieldTagged(reflect.ValueOf(b.e).Elem(), "field", name); ok {
		return setValue(f, value)
	}
	if _, ok := fieldTagged(reflect.ValueOf(new(event.Container)).Elem(), "field", name); ok {
		f, _ := fieldTagged(reflect.ValueOf(b.container()).Elem(), "field", name)
		return setValue(f, value)
	}
	if _, ok := fieldTagged(reflect.ValueOf(new(cluster.Pod)).Elem(), "field", name); ok {
		f, _ := fieldTagged(reflect.ValueOf(b.pod()).Elem(), "field", name)
		return setValue(f, value)
	}
	for i, tag := range []string{"field", "parent"} {
		if _, ok := fieldTagged(reflect.ValueOf(new(event.Process)).Elem(), tag, name); ok {
			f, _ := fieldTagged(reflect.ValueOf(b.process(i)).Elem(), tag, name)
			return setValue(f, value)
		}
	}
	if _, ok := fieldTagged(reflect.ValueOf(new(event.Process)).Elem(), "ancestors", name); ok {
		for i, v := range strings.Split(value, ", ") {
			f, _ := fieldTagged(reflect.ValueOf(b.process(i+1)).Elem(), "ancestors", name)
			if err := setValue(f, v); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("no struct has it")
}

func (b *builder) container() *event.Container {
	p := b.process(0)
	if p.Container == nil {
		p.Container = new(event.Container)
	}
	return p.Container
}

func (b *builder) pod() *cluster.Pod {
	c := b.container()
	if c.Pod == nil {
		c.Pod = new(cluster.Pod)
	}
	return c.Pod
}

// fieldTagged finds the member of a struct whose tag is name.
func fieldTagged(v reflect.Value, tag, name string) (reflect.Value, bool) {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		got, ok := sf.Tag.Lookup(tag)
		if n, _, _ := strings.Cut(got, ","); ok && n == name && sf.Name != "_" {
			return v.Field(i), true
		}
		if sf.Type.Kind() == reflect.Struct && sf.IsExported() && sf.Tag.Get("fields") != "-" {
			if f, ok := fieldTagged(v.Field(i), tag, name); ok {
				return f, true
			}
		}
	}
	return reflect.Value{}, false
}

func setValue(v reflect.Value, s string) error {
	switch v.Interface().(type) {
	case event.Errno:
		for n := range 200 {
			if event.Errno(n).String() == s {
				v.SetInt(int64(n))
				return nil
			}
		}
		return fmt.Errorf("no error %s", s)
	case event.Signal:
		v.SetInt(int64(unix.SignalNum(s)))
		return nil
	case event.Proto:
		v.SetUint(map[string]uint64{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[s])
		return nil
	case event.TCPState:
		for n := range 20 {
			if event.TCPState(n).String() == s {
				v.SetUint(uint64(n))
				return nil
			}
		}
		return fmt.Errorf("no state %s", s)
	case event.CapSet:
		for _, name := range strings.Fields(s) {
			for n := range 64 {
				if event.CapSet(1<<n).String() == name {
					v.SetUint(v.Uint() | 1<<n)
				}
			}
		}
		return nil
	case netip.Addr:
		a, err := netip.ParseAddr(s)
		v.Set(reflect.ValueOf(a))
		return err
	case time.Time:
		t, err := time.Parse(time.RFC3339Nano, s)
		v.Set(reflect.ValueOf(t))
		return err
	case []string:
		v.Set(reflect.ValueOf(strings.Split(s, ", ")))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		v.SetBool(s == "true")
	case reflect.Int, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(s, 0, 64)
		v.SetInt(n)
		return err
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseInt(s, 0, 64)
		if err != nil {
			u, err := strconv.ParseUint(s, 0, 64)
			v.SetUint(u)
			return err
		}
		v.SetUint(uint64(n) & (1<<v.Type().Bits() - 1))
	default:
		return fmt.Errorf("no way to set a %v", v.Type())
	}
	return nil
}
