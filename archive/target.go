package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// A Target is where segments are copied to: a directory or a bucket.
type Target struct {
	// Path is a directory; "" for a bucket.
	Path string

	Bucket, Prefix string
	// Endpoint is the host, and port, of who keeps the bucket; Plain says that
	// it is asked without TLS.
	Endpoint string
	Plain    bool
	// Region may be "", for what the environment or the endpoint says.
	Region string

	text string
}

// String returns the URL. There are no secrets in it.
func (t Target) String() string { return t.text }

// Inside reports whether the target is a directory, or in one of its folders, by
// name.
func (t Target) Inside(dir string) bool {
	if t.Path == "" {
		return false
	}
	below, err := filepath.Rel(dir, t.Path)
	return err == nil && filepath.IsLocal(below)
}

// amazon keeps buckets of which nothing else is said.
const amazon = "s3.amazonaws.com"

// ParseURL reads file:///PATH, or s3://BUCKET/PREFIX?endpoint=URL&region=REGION.
func ParseURL(text string) (Target, error) {
	t := Target{text: text}
	u, err := url.Parse(text)
	if err != nil {
		// The error of url.Parse repeats the text, which may have a key in it.
		return t, errors.New("no URL: want file:///PATH or s3://BUCKET/PREFIX?endpoint=https://HOST")
	}
	switch {
	case u.User != nil:
		return t, errors.New("keys do not belong into the URL: give them in the environment or in a file (credentials)")
	case u.Fragment != "":
		return t, errors.New("a URL with # names no place for segments")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return t, errors.New("what follows ? in the URL cannot be read")
	}
	for key, values := range query {
		if u.Scheme != "s3" || key != "endpoint" && key != "region" {
			return t, fmt.Errorf("no setting %q in such a URL: there are endpoint and region, of s3", key)
		}
		if len(values) != 1 {
			return t, fmt.Errorf("%s is there twice", key)
		}
	}
	switch u.Scheme {
	case "file":
		if u.Host != "" || !path.IsAbs(u.Path) || path.Clean(u.Path) == "/" || strings.ContainsRune(u.Path, 0) {
			return t, errors.New("no directory: want file:///PATH, with three slashes")
		}
		t.Path = path.Clean(u.Path)
		return t, nil
	case "s3":
	default:
		return t, fmt.Errorf("segments cannot be copied to %q: want file:///PATH or s3://BUCKET/PREFIX?endpoint=https://HOST", u.Scheme)
	}
	t.Bucket, t.Prefix = u.Host, strings.Trim(u.Path, "/")
	if t.Bucket == "" || strings.Contains(t.Bucket, ":") {
		return t, errors.New("no bucket: want s3://BUCKET/PREFIX; the host goes into ?endpoint=https://HOST")
	}
	if slices.ContainsFunc(strings.Split(t.Prefix, "/"), func(s string) bool { return s == ".." || s == "." || s == "" && t.Prefix != "" }) {
		return t, fmt.Errorf("%q cannot be a prefix", t.Prefix)
	}
	t.Region = query.Get("region")
	t.Endpoint = amazon
	if e := query.Get("endpoint"); e != "" {
		at, err := url.Parse(e)
		if err != nil || at.Host == "" || at.User != nil || at.RawQuery != "" || at.Path != "" && at.Path != "/" || at.Scheme != "http" && at.Scheme != "https" {
			return t, errors.New("endpoint: want https://HOST or http://HOST, with a port if need be, and nothing else")
		}
		t.Endpoint, t.Plain = at.Host, at.Scheme == "http"
	}
	return t, nil
}

// A receiver keeps segments.
type receiver interface {
	// put keeps what is read under a name, whole or not at all, instead of what
	// it may have under that name.
	put(ctx context.Context, name string, from *source) error
	close()
}

func (t Target) receiver(credentials string) (receiver, error) {
	if t.Path != "" {
		return directory(t.Path), nil
	}
	return newBucket(t, credentials)
}

// A source is a segment that tells when it is read.
type source struct {
	f        *os.File
	size     int64
	at       int64
	progress func()
}

// Read implements [io.Reader].
func (s *source) Read(p []byte) (int, error) {
	n, err := s.ReadAt(p, s.at)
	s.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// ReadAt implements [io.ReaderAt].
func (s *source) ReadAt(p []byte, at int64) (int, error) {
	s.progress()
	n, err := s.f.ReadAt(p, at)
	if err != nil && err != io.EOF {
		err = &localError{err}
	}
	return n, err
}

// Seek implements [io.Seeker].
func (s *source) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.at
	case io.SeekEnd:
		offset += s.size
	}
	if offset < 0 {
		return s.at, errors.New("seek before the start")
	}
	s.at = offset
	return offset, nil
}

// A directory keeps segments as files. It has to exist: where a file system is
// not mounted, nothing is written beside it.
type directory string

func (d directory) put(ctx context.Context, name string, from *source) error {
	info, err := os.Stat(string(d))
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory", string(d))
	}
	to := filepath.Join(string(d), filepath.FromSlash(name))
	if err := makeDirs(string(d), filepath.Dir(filepath.FromSlash(name))); err != nil {
		return err
	}
	return replaceFile(to, &stopping{ctx, from})
}

func (directory) close() {}

// makeDirs makes folders below a directory, durably.
func makeDirs(dir, below string) error {
	for part := range strings.SplitSeq(below, string(filepath.Separator)) {
		parent := dir
		dir = filepath.Join(dir, part)
		switch err := os.Mkdir(dir, 0o700); {
		case errors.Is(err, os.ErrExist):
		case err != nil:
			return err
		default:
			if err := syncDir(parent); err != nil {
				return err
			}
		}
	}
	return nil
}

// stopping is a reader that ends with its context.
type stopping struct {
	ctx context.Context
	r   io.Reader
}

func (s *stopping) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.r.Read(p)
}

// replaceFile writes a file, durably, under another name until it is whole.
func replaceFile(path string, from io.Reader) (err error) {
	part := partName(path)
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(part))
		}
	}()
	if _, err := io.Copy(f, from); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
