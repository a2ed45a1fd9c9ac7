package agent

import (
	"net/netip"
	"strings"

	"warren/api"
	"warren/event"
	"warren/sensor/process"
)

// openFiles answers what a process has open, in words.
func openFiles(f *process.Files) func(event.Key, int) ([]api.OpenFile, int, error) {
	return func(p event.Key, most int) ([]api.OpenFile, int, error) {
		files, total, err := f.Read(p, most)
		if err != nil {
			return nil, 0, err
		}
		list := make([]api.OpenFile, len(files))
		for i, x := range files {
			raw := api.RawFile{
				FD: x.FD, Flags: x.Flags, Mode: x.Mode, Inode: x.Inode, Dev: x.Dev, Magic: x.Magic, Pos: x.Pos,
				Path: x.Path, PathError: x.NoPath.String(), Nameless: x.Nameless, Outside: x.Outside, Deleted: x.Deleted,
			}
			if x.Thread != p.PID {
				raw.Thread = x.Thread
			}
			if s := x.Socket; s != nil {
				raw.Socket = &api.RawSocket{Family: s.Family, Type: s.Type, Protocol: s.Protocol, State: s.State, Local: end(s.Local, s.Path), Remote: end(s.Remote, s.PeerPath)}
			}
			list[i] = raw.OpenFile()
		}
		return list, total, nil
	}
}

// end writes one end of a socket: an address, or the name of a Unix socket. ""
// stands for none.
func end(a netip.AddrPort, name string) string {
	switch {
	case strings.HasPrefix(name, "\x00"):
		return "@" + name[1:]
	case name != "" || !a.IsValid() || a.Port() == 0 && a.Addr().IsUnspecified():
		return name
	}
	return a.String()
}
