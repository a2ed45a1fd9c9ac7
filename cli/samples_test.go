package cli

import (
	"net/netip"
	"strings"
	"time"

	"warren/api"
	"warren/cluster"
	"warren/event"
)

// A day on one machine, as the agent of the scripts in testdata tells it. now
// is when the scripts run.
var (
	bootTime = time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)
	now      = time.Date(2026, 11, 20, 21, 3, 14, 0, time.UTC)
)

// at is a moment so many seconds and milliseconds before now.
func at(ms int) time.Time { return now.Add(-time.Duration(ms) * time.Millisecond) }

func ktime(t time.Time) uint64 { return uint64(t.Sub(bootTime)) }

type machine struct {
	rules                              api.RuleFiles // of the agent
	systemd, sshd, bash, kthread       *event.Process
	curl, sleep, memfd, failed, webapp *event.Process
	service                            *cluster.Peer // what curl was refused by
	events                             []*event.Event
	connections                        []*event.Event
	flows                              *api.FlowMemory // nil without a datapath
}

// process makes a process that started so many milliseconds ago.
func process(parent *event.Process, pid uint32, ago int, name, exe string, args ...string) *event.Process {
	start := at(ago)
	p := &event.Process{
		Key: event.Key{PID: pid, Start: ktime(start)}, PID: pid, TID: pid, VPID: pid, Name: name, ExePath: exe, Filename: exe,
		StartTime: start, ExecTime: start, Parent: parent, UserName: "root", GroupName: "root", LoginUID: event.NoLogin, Cwd: "/",
		SID: pid, PGID: pid, ExeInode: 1000 + uint64(pid), ExeDev: 8<<20 | 1, ExeUID: 0, ExeMode: 0o100755,
		ExeCtime: bootTime.AddDate(0, -1, 0).UnixNano(), ExeMtime: bootTime.AddDate(0, -2, 0).UnixNano(),
	}
	p.SetArgs(args)
	if parent != nil {
		p.ParentKey, p.Depth = parent.Key, parent.Depth+1
		p.Namespaces, p.Cgroup = parent.Namespaces, parent.Cgroup
	}
	full := event.CapSet(1<<41 - 1)
	p.CapEffective, p.CapPermitted, p.CapBounding = full, full, full
	return p
}

func exited(p *event.Process, x event.Exit, ago int) {
	x.Type, x.Ktime = "procexit", ktime(at(ago))
	x.Duration = int64(x.Ktime - p.Start)
	p.Exited = &x
}

func newMachine() *machine {
	m := people()
	m.happen()
	return m
}

// newNode is the same day on a node of a cluster: the web server and the two
// programs that are not what they seem run in pods.
func newNode() *machine {
	m := people()
	pod := func(p *event.Process, ns, deployment, container string, labels map[string]string) {
		c := event.Container{FullID: strings.Repeat(container[:1], 64), ID: strings.Repeat(container[:1], 12), Type: "containerd", Name: container, Image: "registry.example/" + deployment + ":3", StartTime: at(31_000_000)}
		c.Pod = &cluster.Pod{
			UID: "6f1c2d3e-0000-4000-8000-0000000000" + container[:2], Name: deployment + "-5d4f8-" + container[:2], Namespace: ns, Node: "node-1", Labels: labels,
			Workload: cluster.Workload{Kind: "Deployment", Name: deployment}, ServiceAccount: "default", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		}
		c.PodContainer, c.PodContainerKind, c.Services = container, cluster.Main, []string{deployment}
		p.Container = &c
	}
	pod(m.webapp, "shop", "frontend", "nginx", map[string]string{"app": "frontend", "tier": "front", "note": "\x1b[31m"})
	pod(m.memfd, "shop", "cart", "cart", map[string]string{"app": "cart", "canary": ""})
	pod(m.curl, "jobs", "report", "fetch", map[string]string{"app": "report"})
	m.service = &cluster.Peer{Kind: cluster.PeerService, Service: &cluster.Service{Namespace: "shop", Name: "payment"}}
	m.happen()
	return m
}

// people are the processes of the day.
func people() *machine {
	m := &machine{}
	m.rules.Settings = api.DefaultRuleSettings()
	m.systemd = process(nil, 1, 46_800_000, "systemd", "/usr/lib/systemd/systemd", "/sbin/init")
	m.systemd.Namespaces = event.Namespaces{MntNS: 4026531841, PidNS: 4026531836, NetNS: 4026531840, UserNS: 4026531837, UtsNS: 4026531838, IpcNS: 4026531839, CgroupNS: 4026531835, TimeNS: 4026531834}
	m.systemd.Cgroup = event.Cgroup{CgroupID: 1, Path: "/init.scope", Unit: "init.scope"}
	m.kthread = process(nil, 2, 46_800_000, "kthreadd", "")
	m.kthread.Kthread = true
	m.sshd = process(m.systemd, 612, 40_000_000, "sshd", "/usr/sbin/sshd", "sshd: /usr/sbin/sshd -D [listener]")
	m.sshd.Cgroup = event.Cgroup{CgroupID: 77, Path: "/system.slice/ssh.service", Unit: "ssh.service"}
	m.bash = process(m.sshd, 2100, 600_000, "bash", "/usr/bin/bash", "-bash")
	m.bash.UserName, m.bash.UID, m.bash.RUID, m.bash.SUID, m.bash.FUID = "alice", 1000, 1000, 1000, 1000
	m.bash.GroupName, m.bash.GID, m.bash.RGID, m.bash.SGID, m.bash.FGID = "alice", 1000, 1000, 1000, 1000
	m.bash.LoginUID, m.bash.LoginName, m.bash.SessionID, m.bash.TTY = 1000, "alice", 3, 136<<8
	m.bash.CapEffective, m.bash.CapPermitted = 0, 0
	m.bash.Cwd = "/home/alice"
	m.bash.Cgroup = event.Cgroup{CgroupID: 99, Path: "/user.slice/user-1000.slice/session-3.scope", Unit: "session-3.scope"}

	m.curl = process(m.bash, 2143, 9_000, "curl", "/usr/bin/curl", "curl", "-s", "-H", "Accept: text/html", "https://example.com/")
	user(m.curl, m.bash)
	m.sleep = process(m.bash, 2144, 8_000, "sleep", "/usr/bin/sleep", "sleep", "100")
	user(m.sleep, m.bash)
	m.memfd = process(m.bash, 2150, 7_000, "x\n\x1b[2Jy\xff", "memfd:\u202egpj", "./\x1b]0;owned\a", "a\nb", "漢字")
	user(m.memfd, m.bash)
	m.memfd.ExeMemfd, m.memfd.ExeDeleted = true, true
	m.failed = process(m.bash, 2160, 6_000, "false", "/usr/bin/false", "false")
	user(m.failed, m.bash)

	web := &event.Container{FullID: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", ID: "0123456789ab", Type: "podman", Name: "web-1",
		Image: "docker.io/library/nginx:1.27", ImageRepo: "docker.io/library/nginx", ImageTag: "1.27", StartTime: at(30_000_000), Labels: map[string]string{"app": "shop", "tier": "front\u202eend"}}
	m.webapp = process(m.systemd, 1500, 30_000_000, "nginx", "/usr/sbin/nginx", "nginx: master process nginx -g daemon off;")
	m.webapp.Container, m.webapp.VPID = web, 1
	m.webapp.ExeLower = true
	m.webapp.Cgroup = event.Cgroup{CgroupID: 200, Path: "/machine.slice/libpod-0123456789abcdef.scope"}
	m.webapp.CapEffective &^= 1<<21 | 1<<16
	m.webapp.MntNS = 4026532200
	return m
}

// user makes p run as the user of its shell.
func user(p, shell *event.Process) {
	p.Creds, p.UserName, p.GroupName = shell.Creds, shell.UserName, shell.GroupName
	p.LoginUID, p.LoginName, p.SessionID, p.TTY, p.SID, p.Cwd = shell.LoginUID, shell.LoginName, shell.SessionID, shell.TTY, shell.PID, shell.Cwd
}

// as returns p as it was before it ended.
func as(p *event.Process) *event.Process {
	c := *p
	c.Exited = nil
	return &c
}

func (m *machine) happen() {
	add := func(ago int, p *event.Process, d event.Data) {
		t := at(ago)
		e := &event.Event{Time: t, Ktime: ktime(t), Seq: uint64(len(m.events) + 1), Process: p, Data: d}
		if p != nil {
			e.Actor = p.Key
		}
		m.events = append(m.events, e)
	}
	fork := func(ago int, p *event.Process) {
		child := *p
		child.Name, child.Args, child.ExePath = p.Parent.Name, p.Parent.Args, p.Parent.ExePath
		add(ago, &child, &event.Fork{Type: "clone"})
	}
	fork(9_001, m.curl)
	add(9_000, as(m.curl), &event.Exec{Type: "execve"})

	dns := event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 40001, Remote: netip.MustParseAddr("10.0.0.53"), RemotePort: 53, L4: event.UDP}
	add(8_990, m.curl, &event.DNS{Socket: dns, Type: "dns", ID: 7, Name: "example.com", QType: "A"})
	add(8_987, m.curl, &event.DNS{Socket: dns, Type: "dns", ID: 7, Name: "example.com", QType: "A", Response: true, RCode: "NOERROR",
		Answers: []string{"example.com 300 CNAME edge.example.net", "edge.example.net 300 A 93.184.216.34", "edge.example.net 300 A 93.184.216.35"}, Latency: 3_100_000})
	add(8_980, m.curl, &event.DNS{Socket: dns, Type: "dns", ID: 8, Name: "nowhere.example", QType: "AAAA", Response: true, RCode: "NXDOMAIN", Latency: 2_000_000})
	add(8_979, m.curl, &event.DNS{Socket: dns, Type: "dns", ID: 9, Name: "example.com", QType: "AAAA", Response: true, RCode: "NOERROR", Latency: 2_000_000})

	tcp := event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 40002, Remote: netip.MustParseAddr("93.184.216.34"), RemotePort: 443, L4: event.TCP,
		RemoteName: "example.com", NetNS: 4026531840, Cookie: 5}
	open := event.Connection{Socket: tcp, Type: "connect", State: event.Established, Start: at(8_900), Latency: 12_300_000, Duration: 12_300_000, RTT: 12_100_000}
	add(8_888, m.curl, &open)
	refused := event.Connection{Socket: tcp, Type: "connect", State: event.Close, Start: at(8_800), Res: 111, RawRes: -111, Error: 111, Duration: 400_000}
	refused.Remote, refused.RemoteName, refused.RemotePort = netip.MustParseAddr("2001:db8::2"), "", 8443
	refused.Local, refused.Cookie, refused.RemotePeer = netip.MustParseAddr("2001:db8::1"), 7, m.service
	add(8_799, m.curl, &refused)
	done := open
	done.Type, done.State, done.Duration, done.BytesSent, done.BytesReceived, done.Retransmits = "close", event.Close, 800_000_000, 812, 1_300_000, 3
	add(8_100, m.curl, &done)
	inbound := event.Connection{Type: "accept4", State: event.Established, Start: at(8_050), Latency: 90_000, Socket: event.Socket{Local: netip.MustParseAddr("10.0.0.1"), LocalPort: 80,
		Remote: netip.MustParseAddr("10.0.0.9"), RemotePort: 51000, L4: event.TCP, Server: true, NetNS: 4026532300, Cookie: 6}}
	add(8_050, m.webapp, &inbound)
	reset := inbound
	reset.Type, reset.State, reset.Reset, reset.Duration = "close", event.Close, event.ResetRemote, 50_000_000
	add(8_000, m.webapp, &reset)
	listen := event.Connection{Type: "listen", State: event.Listen, Start: at(30_000_000), Duration: 30_000_000_000_000, Socket: event.Socket{Local: netip.MustParseAddr("::"), LocalPort: 80, L4: event.TCP, Server: true, NetNS: 4026532300}}

	fork(7_001, m.memfd)
	add(7_000, as(m.memfd), &event.Exec{Type: "execveat"})
	add(7_000, as(m.memfd), &event.Alert{Type: "alert", Rule: "Fileless execution", Priority: "Critical", Source: "syscall", Output: "x runs from memory (command=x \x1b[31m)",
		Fields: `{"proc.cmdline":"x"}`, Tags: []string{"container", "host"}, ID: "0f8fad5b-d9cb-469f-a165-70867728950e", About: 15, Cause: "execveat", Times: 3, First: at(9_000), Last: at(6_990)})
	add(6_980, as(m.memfd), &event.Reaction{Type: "reaction", Rule: "Fileless execution", Priority: "Critical", Alert: "0f8fad5b-d9cb-469f-a165-70867728950e", Action: "program",
		Target: "/usr/local/bin/collect --now", Outcome: "failed", Reason: "exit status 1", Output: "no \x1b room", Attempts: 1, Took: 1_200_000_000})
	root := as(m.memfd)
	root.UID, root.UserName, root.CapEffective = 0, "root", 1<<41-1
	add(6_900, root, &event.Credentials{Type: "setuid", OldUID: 1000, OldGID: 1000, GID: 1000, Gained: 1<<41 - 1})
	add(6_890, root, &event.Credentials{Type: "capset", OldUID: 0, OldGID: 1000, GID: 1000, Dropped: 1<<21 | 1<<12})
	add(6_850, root, &event.Namespace{Type: "unshare", Changed: []string{"mnt", "net"}})
	add(6_500, nil, &event.Lost{Type: "lost", Count: 120, What: "socket.tcp", Lane: "bulk"})
	exited(m.failed, event.Exit{Code: 1, Status: 256, UserTime: 1_000_000, SysTime: 2_000_000, MaxRSS: 2 << 20}, 5_998)
	add(6_000, as(m.failed), &event.Exec{Type: "execve"})
	add(5_998, m.failed, m.failed.Exited)
	exited(m.memfd, event.Exit{Signal: 9, Status: 9}, 5_000)
	add(5_000, m.memfd, m.memfd.Exited)
	exited(m.curl, event.Exit{MaxRSS: 12 << 20, UserTime: 20_000_000}, 4_000)
	add(4_000, m.curl, m.curl.Exited)
	add(3_000, m.bash, &event.Lost{Type: "lost", Count: 7, Lane: "queue", Consumer: "warren events"})

	for _, c := range []struct {
		p *event.Process
		c event.Connection
	}{{m.webapp, listen}, {m.curl, done}, {m.curl, refused}, {m.webapp, reset}} {
		c.c.Type = "update"
		m.connections = append(m.connections, &event.Event{Time: now, Ktime: ktime(now), Actor: c.p.Key, Process: c.p, Data: &c.c})
	}
}

// processes returns the table of processes as it is now.
func (m *machine) processes() []*event.Process {
	return []*event.Process{m.systemd, m.kthread, m.sshd, m.webapp, m.bash, m.curl, m.sleep, m.memfd, m.failed}
}
