package cni

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"warren/api"
)

// A state is a state directory:
//
//	node.json             what the agent wrote
//	lock                  locked in places, never written
//	attachments/KEY.json  one record for each attachment
//	released/KEY.json     records of what is gone, for a while: see quarantine
//	last.json             the addresses that were given last
//	away                  since when the agent does not answer
//
// A record appears and goes by a rename, so there is none that is half written.
type state struct{ dir string }

const (
	attachmentsDir = "attachments"
	releasedDir    = "released"
	lastFile       = "last.json"
	lockFile       = "lock"
	awayFile       = "away"
	recordSuffix   = ".json"
)

// A record is one attachment: that it is meant to exist, and what belongs to it.
type record struct {
	api.Attachment
	Netns        string        `json:"netns"`
	PodUID       string        `json:"podUID,omitempty"`
	PodNamespace string        `json:"podNamespace,omitempty"`
	PodName      string        `json:"podName,omitempty"`
	Host         string        `json:"hostInterface"`
	Addrs        []netip.Addr  `json:"addrs"`
	Ports        []portMapping `json:"ports,omitempty"`
	// Boot is the boot that it is of: nothing of it outlives that.
	Boot string    `json:"boot,omitempty"`
	Made time.Time `json:"made"`
}

func openState(dir string) (*state, error) {
	for _, d := range []string{attachmentsDir, releasedDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, fmt.Errorf("make the state directory: %w", err)
		}
	}
	return &state{dir}, nil
}

// key names an attachment's record. Ids of containers are longer than file names
// may be.
func key(a api.Attachment) string {
	sum := sha256.Sum256([]byte(a.ContainerID + "\x00" + a.Interface))
	return hex.EncodeToString(sum[:16])
}

func (s *state) path(a api.Attachment) string {
	return filepath.Join(s.dir, attachmentsDir, key(a)+recordSuffix)
}

// The places of the lock file that stand for something. Those of attachments
// come after.
const (
	addressLock = iota
	portLock
	attachmentLock
)

// lock takes a place of the lock file, and waits for who has it. The kernel lets
// go of it when its holder ends, however it ends.
func (s *state) lock(place int64) (io.Closer, error) { return s.take(place, unix.F_OFD_SETLKW) }

func (s *state) take(place int64, how int) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.FcntlFlock(f.Fd(), how, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: place, Len: 1})
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f, nil
}

// lockAttachment keeps other calls off an attachment: a runtime that has given
// up on a call may begin the next one while the first still runs.
func (s *state) lockAttachment(a api.Attachment) (io.Closer, error) { return s.lock(placeOf(a)) }

// tryAttachment does that where nobody has it, and waits for nobody.
func (s *state) tryAttachment(a api.Attachment) (io.Closer, error) {
	return s.take(placeOf(a), unix.F_OFD_SETLK)
}

func placeOf(a api.Attachment) int64 {
	sum := sha256.Sum256([]byte(a.ContainerID + "\x00" + a.Interface))
	return attachmentLock + int64(binary.BigEndian.Uint64(sum[:])>>2)
}

// load returns an attachment's record, nil if there is none.
func (s *state) load(a api.Attachment) (*record, error) {
	r, err := readRecord(s.path(a))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return r, err
}

func readRecord(path string) (*record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := parseRecord(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

func parseRecord(b []byte) (*record, error) {
	r := &record{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if r.ContainerID == "" || r.Interface == "" || r.Host == "" || len(r.Addrs) == 0 {
		return nil, errors.New("it is no attachment's")
	}
	for _, a := range r.Addrs {
		if !a.IsValid() {
			return nil, errors.New("it has no address")
		}
	}
	return r, nil
}

func (s *state) store(r *record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(s.path(r.Attachment), append(b, '\n'), 0o600)
}

// release gives an attachment's addresses back: for a while only if there are no
// others. That there is no record is no error.
func (s *state) release(a api.Attachment) error {
	path := s.path(a)
	now := time.Now()
	err := os.Chtimes(path, now, now) // when it was released: the rename keeps that
	if err == nil {
		err = os.Rename(path, filepath.Join(s.dir, releasedDir, filepath.Base(path)))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// records returns all records. What cannot be read is returned by its path, with
// why.
func (s *state) records() (list []*record, broken map[string]error, err error) {
	names, err := s.names(attachmentsDir)
	if err != nil {
		return nil, nil, err
	}
	broken = map[string]error{}
	for _, name := range names {
		path := filepath.Join(s.dir, attachmentsDir, name)
		r, err := readRecord(path)
		switch {
		case errors.Is(err, fs.ErrNotExist): // released since
		case err != nil:
			broken[path] = err
		case key(r.Attachment)+recordSuffix != name:
			broken[path] = fmt.Errorf("read %s: it is the record of %s, whose name is another", path, r.Attachment)
		default:
			list = append(list, r)
		}
	}
	return list, broken, nil
}

func (s *state) names(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), recordSuffix) && !strings.HasPrefix(e.Name(), tempPrefix) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// sweepAge is how old a file that is not complete must be to be nobody's.
const sweepAge = time.Minute

// sweep removes what killed calls have left unfinished.
func (s *state) sweep() error {
	var errs []error
	for _, d := range []string{"", attachmentsDir} {
		dir := filepath.Join(s.dir, d)
		entries, err := os.ReadDir(dir)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), tempPrefix) {
				continue
			}
			if fi, err := e.Info(); err == nil && time.Since(fi.ModTime()) > sweepAge {
				errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// away says since when the agent has not answered.
func (s *state) away() (time.Time, error) {
	path := filepath.Join(s.dir, awayFile)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		return time.Now(), f.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return time.Time{}, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return time.Time{}, err
	}
	return fi.ModTime(), nil
}

// back forgets that the agent was away.
func (s *state) back() error {
	err := os.Remove(filepath.Join(s.dir, awayFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
