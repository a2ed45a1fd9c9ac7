package reaction

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"warren/alert"
	"warren/alert/channel"
	"warren/event"
	"warren/rule"
)

const (
	// attempts is how often something is tried that may be done twice; the pause
	// between two doubles.
	attempts   = 3
	firstPause = time.Second
	// longestPause bounds what a receiver can ask us to wait.
	longestPause = 10 * time.Second
	// podTimeout bounds one question to the API server.
	podTimeout = 10 * time.Second
)

// do does what an alert's rule wants, or finds out whether it could.
func (x *Reactor) do(b bounds, j *job, do *rule.Reaction) (r result) {
	begun := time.Now()
	r.dry = b.dry(do)
	most := attempts
	if do.Action == rule.RunProgram {
		most = 1 // nobody knows what half of it has done
	}
	pause := x.pause
	for {
		r.attempts++
		var err error
		r.said, err = x.try(x.over, b.now, j, do, r.dry)
		if errors.Is(err, ErrGone) && do.Action == rule.DeletePod {
			r.said, err = "it was gone", nil
		}
		r.took = time.Since(begun)
		if err == nil {
			r.verdict = verdict{event.ReactionDone, ""}
			return r
		}
		if x.over.Err() != nil {
			err = errEnds
		}
		r.verdict = verdict{event.ReactionFailed, err.Error()}
		wait := max(pause+rand.N(pause/4), channel.Later(err))
		if r.attempts >= most || wait > longestPause || forGood(err) {
			return r
		}
		pause *= 2
		select {
		case <-time.After(wait):
		case <-x.quit: // it is tried no more
			return r
		}
	}
}

// forGood reports whether something would fail again.
func forGood(err error) bool {
	var refused *RefusedError
	return channel.Refused(err) || errors.As(err, &refused) || errors.Is(err, ErrGone)
}

// try does it once.
func (x *Reactor) try(ctx context.Context, t *Terms, j *job, do *rule.Reaction, dry bool) (said string, err error) {
	switch do.Action {
	case rule.RunProgram:
		return run(ctx, do, x.text(t, j.alert), dry)
	case rule.CallWebhook:
		if dry {
			return "", nil
		}
		return t.calls[do.Webhook].Send(ctx, x.text(t, j.alert))
	}
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	pod := event.PodOf(j.about)
	if do.Action == rule.LabelPod {
		return "", x.env.Pods.Label(ctx, pod, do.Labels, dry)
	}
	return "", x.env.Pods.Delete(ctx, pod, do.Grace, dry)
}

// text is an alert as Falco writes it.
func (x *Reactor) text(t *Terms, told *event.Event) []byte {
	return alert.Falco{ISOTime: t.falco.ISOTime}.Append(nil, told, x.env.Hostname)
}

// searchPath is all that a program has of an environment.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// run runs a program, which reads the alert's text from its standard input. It
// returns the end of what the program said.
func run(ctx context.Context, do *rule.Reaction, text []byte, dry bool) (string, error) {
	if err := runnable(do.Program[0]); err != nil || dry {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, do.Timeout, fmt.Errorf("it took longer than %v, and was ended", do.Timeout))
	defer cancel()
	cmd := channel.Command(ctx, do.Program[0], do.Program[1:]...)
	var said channel.Tail
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(append(text, '\n')), &said, &said
	cmd.Env, cmd.Dir = []string{searchPath}, "/"
	err := channel.Ended(cmd.Run())
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return said.Text(), err
}

// runnable says why a file cannot be run, or should not be.
func runnable(path string) error {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return fmt.Errorf("%s is no program", path)
	case st.Mode()&0o022 != 0:
		return fmt.Errorf("%s can be changed by others than its owner", path)
	}
	end, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for _, p := range slices.Compact([]string{path, end}) {
		if err := kept(p); err != nil {
			return err
		}
	}
	return nil
}

// kept says why somebody else than root and who the agent is could put another file
// in the place of one: by a link, or a directory on the way to it.
func kept(path string) error {
	for p := path; ; p = filepath.Dir(p) {
		st, err := os.Lstat(p)
		if err != nil {
			return err
		}
		if own, ok := st.Sys().(*syscall.Stat_t); ok && own.Uid != 0 && int(own.Uid) != os.Geteuid() {
			return fmt.Errorf("%s is of user %d, who can have something else run", p, own.Uid)
		}
		// In a sticky directory nobody moves what is of others.
		if st.IsDir() && st.Mode()&0o022 != 0 && st.Mode()&os.ModeSticky == 0 && !readOnly(p) {
			return fmt.Errorf("%s can be changed by others than its owner, who can have something else run", p)
		}
		if p == "/" {
			return nil
		}
	}
}

// readOnly reports whether nothing can be written below a directory, as where a
// ConfigMap is mounted, whose mode lets everybody.
func readOnly(dir string) bool {
	var fs syscall.Statfs_t
	return syscall.Statfs(dir, &fs) == nil && fs.Flags&syscall.MS_RDONLY != 0 // which is ST_RDONLY
}
