package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	_ "modernc.org/sqlite" // registers the driver

	"warren/event"
)

// A keeper is a place where events are kept: the history, or what it is compared
// with. All calls come from one goroutine.
type keeper interface {
	keep(e *event.Event) error
	// wait returns when the keeper is ready for more: it is called now and then
	// when events come as fast as can be.
	wait() error
	// finish returns when everything is on the disk as it stays.
	finish() error
	// count says how many events answer a question.
	count(ctx context.Context, q question) (int, error)
	close() error
}

// A question is asked of each keeper, in its own language.
type question struct {
	name   string
	filter string
	sql    string
	line   func([]byte) bool
}

// The address that somebody was connected to for a moment, among thousands.
var rareAddr = netip.MustParseAddr("198.51.100.77")

// questions: one that has to look at every event, and one that statistics can
// answer for nearly all that is kept.
var questions = []question{
	{
		name:   "scan",
		filter: `evt.type = close and proc.name = java and fd.rport = 5432 and conn.bytes_sent > 8000`,
		sql:    `SELECT count(*) FROM event e JOIN process p ON p.id = e.process WHERE e.type = 'close' AND p.name = 'java' AND e.rport = 5432 AND e.sent > 8000`,
		line: func(l []byte) bool {
			port, _ := number(l, "fd.rport")
			sent, _ := number(l, "conn.bytes_sent")
			return port == 5432 && sent > 8000 && string(text(l, "evt.type")) == "close" && string(text(l, "proc.name")) == "java"
		},
	},
	{
		name:   "needle",
		filter: `fd.rip = ` + rareAddr.String(),
		sql:    `SELECT count(*) FROM event WHERE rip = '` + rareAddr.String() + `'`,
		line:   func(l []byte) bool { return string(text(l, "fd.rip")) == rareAddr.String() },
	},
}

// answers reports whether an event answers the question.
func (q question) answers(e *event.Event) bool {
	c, ok := e.Data.(*event.Connection)
	if !ok {
		return false
	}
	if q.name == "needle" {
		return c.Remote == rareAddr
	}
	return c.Type == "close" && e.Process.Name == "java" && c.RemotePort == 5432 && c.BytesSent > 8000
}

// newKeeper opens a keeper by its name.
func newKeeper(name, dir string) (keeper, error) {
	switch name {
	case "none":
		return nobody{}, nil
	case "history":
		return newHistoryKeeper(dir)
	case "sqlite":
		return newSQLiteKeeper(dir)
	case "json":
		return newJSONKeeper(dir)
	}
	return nil, fmt.Errorf("no keeper %q", name)
}

// nobody keeps nothing: it says what making the events costs.
type nobody struct{}

func (nobody) keep(*event.Event) error                      { return nil }
func (nobody) wait() error                                  { return nil }
func (nobody) finish() error                                { return nil }
func (nobody) count(context.Context, question) (int, error) { return 0, errors.New("nothing is kept") }
func (nobody) close() error                                 { return nil }

// every is how often SQLite commits and zstd flushes: what is older than a second
// is safe, as in the history.
const every = 100_000

// sqliteKeeper has a table of connections and one of processes, as the history
// has, and an index on the far address.
type sqliteKeeper struct {
	db             *sql.DB
	tx             *sql.Tx
	insert, person *sql.Stmt
	processes      map[event.Key]int64
	n              int
}

func newSQLiteKeeper(dir string) (*sqliteKeeper, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "events.db")+"?_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = db.Exec(`
		CREATE TABLE IF NOT EXISTS process (id INTEGER PRIMARY KEY, exec_id TEXT, pid INT, name TEXT, exepath TEXT, cmdline TEXT, cwd TEXT, uid INT, user TEXT,
			container TEXT, image TEXT, pod TEXT, ns TEXT, start INT, parent TEXT);
		CREATE TABLE IF NOT EXISTS event (num INTEGER PRIMARY KEY, time INT, ktime INT, process INT, type TEXT, rawres INT, lip TEXT, lport INT, rip TEXT, rport INT,
			l4 TEXT, server INT, rname TEXT, netns INT, cookie INT, rkind TEXT, rpod TEXT, state TEXT, start INT, duration INT, latency INT, sent INT, received INT,
			packets_out INT, packets_in INT, rtt INT, minrtt INT, retransmits INT);
		CREATE INDEX IF NOT EXISTS event_rip ON event (rip);`)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &sqliteKeeper{db: db, processes: map[event.Key]int64{}}, nil
}

func (k *sqliteKeeper) begin() (err error) {
	if k.tx, err = k.db.Begin(); err != nil {
		return err
	}
	if k.insert, err = k.tx.Prepare(`INSERT INTO event VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`); err != nil {
		return err
	}
	k.person, err = k.tx.Prepare(`INSERT INTO process VALUES (NULL,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`)
	return err
}

func (k *sqliteKeeper) keep(e *event.Event) error {
	c, ok := e.Data.(*event.Connection)
	if !ok {
		return nil
	}
	if k.tx == nil {
		if err := k.begin(); err != nil {
			return err
		}
	}
	process, ok := k.processes[e.Process.Key]
	if !ok {
		p := e.Process
		var id, image, pod, ns string
		if p.Container != nil {
			id, image = p.Container.ID, p.Container.Image
			pod, ns = p.Container.Pod.Name, p.Container.Pod.Namespace
		}
		done, err := k.person.Exec(p.ExecID(), p.PID, p.Name, p.ExePath, p.Cmdline, p.Cwd, p.UID, p.UserName, id, image, pod, ns, p.StartTime.UnixNano(), p.ParentKey.ExecID())
		if err != nil {
			return err
		}
		if process, err = done.LastInsertId(); err != nil {
			return err
		}
		k.processes[p.Key] = process
	}
	var rkind, rpod any
	if c.RemotePeer != nil {
		rkind = string(c.RemotePeer.Kind)
		if c.RemotePeer.Pod != nil {
			rpod = c.RemotePeer.Pod.Name
		}
	}
	_, err := k.insert.Exec(int64(e.Seq), e.Time.UnixNano(), int64(e.Ktime), process, c.Type, c.RawRes, c.Local.String(), c.LocalPort, c.Remote.String(), c.RemotePort,
		c.L4.String(), c.Server, orNull(c.RemoteName), c.NetNS, int64(c.Cookie), rkind, rpod, c.State.String(), c.Start.UnixNano(), c.Duration, c.Latency, int64(c.BytesSent),
		int64(c.BytesReceived), int64(c.PacketsSent), int64(c.PacketsRecv), c.RTT, c.MinRTT, c.Retransmits)
	if err != nil {
		return err
	}
	if k.n++; k.n%every == 0 {
		return k.commit()
	}
	return nil
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func (k *sqliteKeeper) commit() error {
	if k.tx == nil {
		return nil
	}
	err := k.tx.Commit()
	k.tx = nil
	return err
}

func (k *sqliteKeeper) wait() error { return nil }

func (k *sqliteKeeper) finish() error {
	if err := k.commit(); err != nil {
		return err
	}
	_, err := k.db.Exec(`PRAGMA wal_checkpoint(TRUNCATE)`)
	return err
}

func (k *sqliteKeeper) count(ctx context.Context, q question) (n int, err error) {
	err = k.db.QueryRowContext(ctx, q.sql).Scan(&n)
	return n, err
}

func (k *sqliteKeeper) close() error { return k.db.Close() }

// jsonKeeper has the events' JSON, a line each, in one file behind zstd.
type jsonKeeper struct {
	path string
	f    *os.File
	z    *zstd.Encoder
	b    []byte
	n    int
}

func newJSONKeeper(dir string) (*jsonKeeper, error) {
	k := &jsonKeeper{path: filepath.Join(dir, "events.json.zst")}
	var err error
	if k.f, err = os.OpenFile(k.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	k.z, err = zstd.NewWriter(k.f, zstd.WithEncoderConcurrency(1))
	return k, err
}

func (k *jsonKeeper) keep(e *event.Event) error {
	k.b = append(event.AppendJSON(k.b[:0], e), '\n')
	if _, err := k.z.Write(k.b); err != nil {
		return err
	}
	if k.n++; k.n%every == 0 {
		return k.z.Flush()
	}
	return nil
}

func (k *jsonKeeper) wait() error { return nil }

func (k *jsonKeeper) finish() error { return k.z.Close() }

func (k *jsonKeeper) count(_ context.Context, q question) (n int, err error) {
	f, err := os.Open(k.path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer z.Close()
	lines := bufio.NewReaderSize(z, 1<<20)
	for {
		line, err := lines.ReadSlice('\n')
		if len(bytes.TrimSpace(line)) > 0 && q.line(line) {
			n++
		}
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func (k *jsonKeeper) close() error { return k.f.Close() }

// diskUse is what a directory's files take, in bytes.
func diskUse(dir string) (int64, error) {
	var total int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		total += info.Size()
		return err
	})
	return total, err
}
