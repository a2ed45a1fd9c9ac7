package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// socketMode lets root and the group of the socket ask.
const socketMode = 0o660

// maxSocketPath is what sockaddr_un has room for, without the final zero byte.
const maxSocketPath = 107

// ListenUnix listens on a Unix socket at path, which appears there complete:
// with its mode, and ready to answer. The socket of an agent that has died is
// replaced; one that still answers is left alone, and the error names its
// process. Closing the listener removes the socket, if it is still ours.
func ListenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("listen on %s: the path has %d bytes, sockets can have %d", path, len(path), maxSocketPath)
	}
	if err := vacant(path); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	// Nobody else can look into this folder: the socket is made there, and then
	// moved.
	tmp, err := os.MkdirTemp(dir, ".socket-*")
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer os.RemoveAll(tmp)
	fd, err := unix.Open(tmp, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: open %s: %w", path, tmp, err)
	}
	defer unix.Close(fd)
	// A path by way of the folder's descriptor is short enough in any case.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/s", fd)})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	made := filepath.Join(tmp, "s")
	var st unix.Stat_t
	err = errors.Join(os.Chmod(made, socketMode), unix.Lstat(made, &st))
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return &unixListener{UnixListener: l, path: path, ino: st.Ino, dev: st.Dev}, nil
}

// vacant returns an error unless path is free, or a socket that nobody answers.
func vacant(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("listen on %s: %w", path, err)
	case fi.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("listen on %s: something that is no socket has this name", path)
	}
	c, err := net.Dial("unix", path)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listen on %s: something listens there already, and does not answer: %w", path, err)
	}
	defer c.Close()
	if pid := peer(c); pid > 0 {
		return fmt.Errorf("listen on %s: process %d listens there already", path, pid)
	}
	return fmt.Errorf("listen on %s: another process listens there already", path)
}

// peer returns the pid of the process that listens at the other end, 0 if it
// cannot be known: the process is in a pid namespace that we do not see.
func peer(c net.Conn) int {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	if err := raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	}); err != nil {
		return 0
	}
	return pid
}

type unixListener struct {
	*net.UnixListener
	path     string
	dev, ino uint64
	once     sync.Once
}

// Addr returns the path at which clients find the socket.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Net: "unix", Name: l.path} }

// Close implements [net.Listener].
func (l *unixListener) Close() error {
	l.once.Do(func() {
		var st unix.Stat_t
		if unix.Lstat(l.path, &st) == nil && st.Ino == l.ino && st.Dev == l.dev {
			_ = os.Remove(l.path) // a socket left behind is replaced by the next agent
		}
	})
	return l.UnixListener.Close()
}

// ListenLoopback listens on an address of this machine's loopback, which flag
// has set.
func ListenLoopback(ctx context.Context, addr, flag string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: want HOST:PORT: %w", addr, err)
	}
	if !IsLoopback(host) {
		return nil, fmt.Errorf("listen on %s: not an address of loopback: whoever reaches it can read every command line; set http-public: true in the configuration to allow it", addr)
	}
	l, err := ListenTCP(ctx, addr, flag)
	if err != nil {
		return nil, err
	}
	// localhost is what /etc/hosts says it is.
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		l.Close()
		return nil, fmt.Errorf("listen on %s: it stands for %s, which is not on loopback", addr, l.Addr())
	}
	return l, nil
}

// ErrInUse says that somebody listens at an address already.
var ErrInUse = errors.New("the address is in use")

// ListenTCP listens on any address, which flag has set: whoever reaches it gets
// what answers there. Where somebody else does, the error is [ErrInUse].
func ListenTCP(ctx context.Context, addr, flag string) (net.Listener, error) {
	// sockets of MPTCP, Go's default, are of no use on loopback and between nodes.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", addr)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s: %w: give another with %s, or %s off", addr, ErrInUse, flag, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return l, nil
}

// IsLoopback reports whether a host is this machine's loopback: an address of it, or
// localhost, which may turn out to be another one when somebody listens there.
func IsLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// local guards a handler that any web page in a browser on this machine can
// reach. A page that has its own name resolve to loopback (DNS rebinding) is
// told by the Host header; requests made by other sites are told by what
// browsers say of them. There are no CORS headers, so what a page of another
// site asks for nevertheless, it cannot read.
func local(next http.Handler, addr net.Addr) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		host := req.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
			host = host[1 : n-1]
		}
		if !IsLoopback(host) && !isOwn(host, addr) {
			refuse(w, fmt.Sprintf("the host %s is not this agent's name: ask for localhost", printable(req.Host)))
			return
		}
		site, mode := req.Header.Get("Sec-Fetch-Site"), req.Header.Get("Sec-Fetch-Mode")
		if (site == "cross-site" || site == "same-site") && mode != "navigate" {
			refuse(w, "asked for by a page of another site")
			return
		}
		next.ServeHTTP(w, req)
	})
}

// isOwn reports whether host is an address that the listener, being public,
// may be asked by: an address is nothing that a name can be rebound to.
func isOwn(host string, addr net.Addr) bool {
	a, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	l, ok := addr.(*net.TCPAddr)
	return ok && !l.IP.IsLoopback() && a.IsValid()
}

func refuse(w http.ResponseWriter, why string) {
	WriteError(w, Forbidden("%s", why))
}
