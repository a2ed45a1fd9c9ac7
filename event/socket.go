package event

import (
	"net/netip"
	"time"

	"warren/cluster"
)

// Socket is the part that all events of network sockets share.
type Socket struct {
	Local      netip.Addr `field:"fd.lip" doc:"address of this machine's end"`
	Remote     netip.Addr `field:"fd.rip" doc:"address of the other end"`
	LocalPort  uint16     `field:"fd.lport,omitzero" doc:"port of this machine's end"`
	RemotePort uint16     `field:"fd.rport,omitzero" doc:"port of the other end"`
	L4         Proto      `field:"fd.l4proto" doc:"transport protocol: tcp, udp"`
	// Server is true when this machine's end accepted, or received first.
	Server bool `field:"fd.is_server" doc:"true when this machine's end is the server's"`
	// LocalName and RemoteName are names that this machine was answered for
	// the addresses, by DNS, in this network namespace, before the event.
	LocalName  string `field:"fd.lip.name" doc:"name of the near address that this machine was last answered by DNS"`
	RemoteName string `field:"fd.rip.name" doc:"name of the far address that this machine was last answered by DNS"`
	NetNS      uint32 `field:"fd.netns,omitzero" doc:"network namespace of the socket, by inode number"`
	Cookie     uint64 `field:"fd.cookie,omitzero" doc:"number of the socket that no other socket has until the next boot"`
	// RemotePeer is what the far address stood for in the cluster when the
	// connection began; nil outside clusters, for loopback, and while the
	// cluster has not told.
	RemotePeer *cluster.Peer `column:"k8s.remote"`

	_ struct{} `field:"fd.cip" type:"ip" doc:"address of the client"`
	_ struct{} `field:"fd.sip" type:"ip" doc:"address of the server"`
	_ struct{} `field:"fd.cport" type:"uint" doc:"port of the client"`
	_ struct{} `field:"fd.sport" type:"uint" doc:"port of the server"`
	_ struct{} `field:"fd.cip.name" type:"string" doc:"name of the client's address, by DNS"`
	_ struct{} `field:"fd.sip.name" type:"string" doc:"name of the server's address, by DNS"`
	_ struct{} `field:"fd.name" type:"string" doc:"what the descriptor refers to: of a socket both ends, client:port->server:port; of a file its absolute path as the process sees it, from the kernel's own objects"`
	_ struct{} `field:"fd.type" type:"string" doc:"type of the descriptor: ipv4, ipv6, file, directory"`
	_ struct{} `field:"fd.typechar" type:"string" virtual:"1" doc:"type of the descriptor as one letter: 4, 6, f, d"`
	_ struct{} `field:"fd.sockfamily" type:"string" virtual:"1" doc:"family of the socket: ip"`
	_ struct{} `field:"fd.ip" type:"ip" many:"either" virtual:"1" doc:"address of either end"`
	_ struct{} `field:"fd.port" type:"uint" many:"either" virtual:"1" doc:"port of either end"`
	_ struct{} `field:"fd.net" type:"net" many:"either" virtual:"1" doc:"network of either end: fd.net = 10.0.0.0/8"`
	_ struct{} `field:"fd.cnet" type:"net" virtual:"1" doc:"network of the client"`
	_ struct{} `field:"fd.snet" type:"net" virtual:"1" doc:"network of the server"`
	_ struct{} `field:"fd.lnet" type:"net" virtual:"1" doc:"network of this machine's end"`
	_ struct{} `field:"fd.rnet" type:"net" virtual:"1" doc:"network of the other end"`
	_ struct{} `field:"fd.proto" type:"string" many:"either" virtual:"1" doc:"well-known service of the port of either end; the port where it has none"`
	_ struct{} `field:"fd.cproto" type:"string" virtual:"1" doc:"well-known service of the client's port"`
	_ struct{} `field:"fd.sproto" type:"string" virtual:"1" doc:"well-known service of the server's port"`
	_ struct{} `field:"fd.lproto" type:"string" virtual:"1" doc:"well-known service of the near port"`
	_ struct{} `field:"fd.rproto" type:"string" virtual:"1" doc:"well-known service of the far port"`

	_ struct{} `field:"k8s.remote.kind" type:"string" doc:"what the far address stood for when the connection began: pod, service, node, world"`
	_ struct{} `field:"k8s.remote.ns.name" type:"string" doc:"namespace of the pod or service at the far end"`
	_ struct{} `field:"k8s.remote.pod.name" type:"string" doc:"name of the pod at the far end"`
	_ struct{} `field:"k8s.remote.pod.uid" type:"string" doc:"uid of the pod at the far end"`
	_ struct{} `field:"k8s.remote.pod.labels" type:"string" doc:"labels of the pod at the far end: k8s.remote.pod.labels[app]; without a key, all of them: key:value, joined by commas and blanks"`
	_ struct{} `field:"k8s.remote.svc.name" type:"string" doc:"name of the service whose address is the far one"`
	_ struct{} `field:"k8s.remote.workload.kind" type:"string" doc:"what made the pod at the far end, outermost: Deployment, DaemonSet, ..."`
	_ struct{} `field:"k8s.remote.workload.name" type:"string" doc:"name of what made the pod at the far end"`
	_ struct{} `field:"k8s.remote.node.name" type:"string" doc:"node at the far end, or node of the pod there"`
}

// Connection is a change in the life of a TCP connection, of a listening
// socket or of a UDP flow.
//
// Its types: listen; connect (when its outcome is known, or at the first
// datagram sent for UDP: sendto), accept or accept4 (recvfrom for UDP), update
// (counters of a long-lived one) and close.
type Connection struct {
	Socket
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res    Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	RawRes int64  `field:"evt.rawres" doc:"what the system call returned: 0 or more, or a negative error number"`

	State         TCPState  `field:"conn.state" doc:"state of the connection after the event, as ss(8) names it"`
	Start         time.Time `field:"conn.start" doc:"when the connection began; absent where that is unknown"`
	Duration      int64     `column:"conn.duration" type:"duration"`
	_             struct{}  `field:"conn.duration" type:"duration" doc:"nanoseconds since the connection began; absent where that is unknown"`
	Latency       int64     `field:"conn.latency,omitzero" type:"duration" doc:"nanoseconds the handshake took"`
	BytesSent     uint64    `field:"conn.bytes_sent" doc:"bytes sent and acknowledged (TCP), or sent (UDP)"`
	BytesReceived uint64    `field:"conn.bytes_received" doc:"bytes received"`
	PacketsSent   uint64    `field:"conn.packets_sent" doc:"segments or datagrams sent"`
	PacketsRecv   uint64    `field:"conn.packets_received" doc:"segments or datagrams received"`
	RTT           int64     `field:"conn.rtt,omitzero" type:"duration" doc:"smoothed round-trip time in nanoseconds (TCP)"`
	MinRTT        int64     `field:"conn.rtt_min,omitzero" type:"duration" doc:"least round-trip time seen, nanoseconds (TCP)"`
	Retransmits   uint32    `field:"conn.retransmits" doc:"segments sent again (TCP)"`
	Lost          uint32    `field:"conn.lost,omitzero" doc:"segments taken for lost at present (TCP)"`
	Reset         ResetBy   `field:"conn.reset" doc:"who reset the connection: local, remote"`
	Error         Errno     `field:"conn.error,omitzero" doc:"error the connection ended with"`
	Existing      bool      `field:"conn.existing,omitzero" doc:"true when the connection is older than the agent: when it began is unknown"`
	Shared        bool      `field:"conn.owner_inherited,omitzero" doc:"true when the owner is taken from the listening socket: nobody has accepted yet"`

	_ struct{} `field:"conn.direction" type:"string" doc:"in, out, or listen"`
	_ struct{} `field:"fd.connected" type:"bool" virtual:"1" doc:"true when the socket is connected"`
	_ struct{} `field:"fd.name_changed" type:"bool" virtual:"1" doc:"true when the event gave the socket a new peer"`
}

// Kind implements [Data].
func (*Connection) Kind() Kind { return KindConnection }

// DNS is one DNS message that a socket of this machine sent or received.
type DNS struct {
	Socket
	Type     string   `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Response bool     `field:"dns.response" doc:"true for an answer, false for a question"`
	ID       uint16   `field:"dns.id" doc:"transaction id"`
	Name     string   `field:"dns.name" doc:"name that was asked for, lower case, without the last dot"`
	QType    string   `field:"dns.type" doc:"type of record that was asked for: A, AAAA, CNAME, ..."`
	RCode    string   `field:"dns.rcode" doc:"answer's code: NOERROR, NXDOMAIN, ..."`
	Answers  []string `field:"dns.answers" doc:"records of the answer, as text: name TTL type value"`
	Addrs    []Answer `column:"dns.addrs"`
	Latency  int64    `field:"dns.latency,omitzero" type:"duration" doc:"nanoseconds between the question and this answer"`
	Cut      bool     `field:"dns.truncated,omitzero" doc:"true when the message was cut, by the server (TC) or by the capture"`
}

// An Answer is an address that a DNS answer gives a name.
type Answer struct {
	Name string // the name that was asked for, not the last alias
	Addr netip.Addr
	TTL  uint32 // seconds
}

// Kind implements [Data].
func (*DNS) Kind() Kind { return KindDNS }

// Lost says that events were lost, where, and how many; or on the lanes agent and
// connection that none were seen, from when the event is of until Until.
type Lost struct {
	Type     string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Count    uint64 `field:"lost.count" doc:"how many"`
	What     string `field:"lost.kind" doc:"which records were lost, by sensor and record: process.exec; on the lane kernel which hook missed as many calls"`
	Lane     string `field:"lost.lane" doc:"where: critical, bulk or ring (a ring was full), queue (a consumer did not keep up), table (a kernel map was full), kernel (a program was not run, because one was running already on that CPU), disk (the history could not be written), audit (what an API server told could not be read, or was too large), name (of files: the kernel does not show which they were, and the events could have been of those asked for), agent (no agent kept what happened, from evt.time until lost.until: how many events that were, nobody knows), connection (a hub heard nothing of a node, from evt.time until lost.until)"`
	Consumer string `field:"lost.consumer" doc:"whose queue it was"`
	// Until is the end of a time of which nothing is known; zero for other losses.
	Until time.Time `field:"lost.until" doc:"on the lanes agent and connection: when that was over"`
}

// Kind implements [Data].
func (*Lost) Kind() Kind { return KindLost }
