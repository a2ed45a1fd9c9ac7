package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"warren/api"
	"warren/settings"
)

// historyStatusCommand says what is kept of the past.
func historyStatusCommand(g *globals) *command {
	var output string
	return &command{
		name:    "history status",
		summary: "Report on what is kept of the past",
		about: "Where the history is, what it keeps and for how long, how far it reaches back, how much room each kind of event takes, and what was lost of it; where it is archived, what of it is not yet, and why. " +
			"Its files are Parquet, and others can read them: docs/history.md.",
		examples: []example{
			{"warren history status", "How far the history reaches back"},
			{"warren history status -o json", "The same for a script"},
		},
		flags: []*option{outputFlag(&output, "", "table", "json")},
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			who, err := g.answerer(env, &selection{})
			if err != nil {
				return err
			}
			b, err := who.History(ctx)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeObject(env, b)
			}
			var st api.HistoryStatus
			if err := json.Unmarshal(b, &st); err != nil {
				return fmt.Errorf("read the history's state: %w", err)
			}
			p := page{screen: env.screen(true)}
			p.heading("History")
			p.history(&st, env.Now())
			p.segments(&st, env.Now())
			p.gaps(&st, env.Now())
			return p.print(env)
		},
	}
}

// history writes what is kept of the past.
func (p *page) history(st *api.HistoryStatus, now time.Time) {
	if st.Error != "" {
		p.line("state", p.paint(red, "the history fails: "+p.safe(st.Error)))
	}
	p.line("kept in", p.safe(st.Dir))
	p.line("reaches back", reachOf(st, now))
	p.line("keeps", p.safe(st.Filter))
	p.line("takes", fmt.Sprintf("%s of %s, for %s at most", byteCount(uint64(st.Bytes)), byteCount(uint64(st.MaxBytes)), settings.SpanName(st.MaxAge)))
	events := strconv.FormatUint(st.Events, 10)
	if st.Rows > 0 && st.Rows != st.Events {
		events += ", in " + strconv.FormatUint(st.Rows, 10) + " rows"
	}
	p.line("events", events+" since the agent started")
	if st.SealedBytes > 0 && st.RawBytes > 0 {
		p.line("compressed", fmt.Sprintf("%.1f to 1", float64(st.RawBytes)/float64(st.SealedBytes)))
	}
	if st.Lost > 0 {
		p.line("lost", p.paint(red, fmt.Sprintf("%d events since the agent started", st.Lost)))
	}
	if st.Torn > 0 {
		p.line("torn", p.paint(yellow, byteCount(uint64(st.Torn))+" of what a former agent wrote"))
	}
	if st.Broken > 0 {
		p.line("broken", p.paint(red, segmentCount(st.Broken)+" cannot be read whole"))
	}
	if st.Archive != nil {
		p.archive(st.Archive, now)
	}
}

func segmentCount(n int) string {
	if n == 1 {
		return "1 segment"
	}
	return strconv.Itoa(n) + " segments"
}

// archive writes what was copied elsewhere, and what was not.
func (p *page) archive(a *api.HistoryArchive, now time.Time) {
	segments := func(n int, bytes int64) string { return segmentCount(n) + ", " + byteCount(uint64(bytes)) }
	p.line("archived to", p.safe(a.URL))
	archived := segments(a.Segments, a.Bytes)
	if !a.LastCopy.IsZero() {
		archived += "; the last was copied " + span(now.Sub(a.LastCopy)) + " ago"
	}
	p.line("archived", archived)
	if a.Waiting > 0 {
		p.line("waiting", segments(a.Waiting, a.WaitingBytes)+"; the oldest is of "+day(a.WaitingSince, now))
	}
	if a.Error != "" {
		p.line("failing", p.paint(red, "since "+day(a.FailingSince, now)+": "+p.safe(a.Error)))
	}
	if a.GivenUp > 0 {
		p.line("given up", p.paint(red, segments(a.GivenUp, a.GivenUpBytes)+", for want of room and not archived"))
	}
}

// segments writes what each kind of event takes.
func (p *page) segments(st *api.HistoryStatus, now time.Time) {
	if len(st.Segments) == 0 {
		return
	}
	p.heading("Segments")
	cols := []column{{head: "KIND", min: 16}, {head: "SEGMENTS", right: true}, {head: "ROWS", right: true}, {head: "SIZE", right: true}, {head: "FROM"}, {head: "TO"}}
	var rows [][]cell
	for _, s := range st.Segments {
		row := []cell{{text: p.safe(s.Kind)}, {text: strconv.Itoa(s.Segments)}, {text: strconv.FormatUint(s.Rows, 10)}, {text: byteCount(uint64(s.Bytes))}, {}, {}}
		if s.Kind == "active" && s.Rows == 0 {
			row[2].text = "" // nobody has counted them
		}
		if !s.Oldest.IsZero() {
			row[4].text, row[5].text = day(s.Oldest, now), day(s.Newest, now)
		}
		rows = append(rows, row)
	}
	p.rows(cols, rows)
}

// gaps writes when nothing was kept: the last times.
func (p *page) gaps(st *api.HistoryStatus, now time.Time) {
	const most = 20
	if len(st.Gaps) == 0 {
		return
	}
	p.heading("No agent recorded")
	var rows [][]cell
	shown := st.Gaps[max(len(st.Gaps)-most, 0):]
	if more := st.MoreGaps + len(st.Gaps) - len(shown); more > 0 {
		rows = append(rows, []cell{{text: fmt.Sprintf("%d times more", more)}, {}, {}})
	}
	for _, g := range shown {
		from, to := moments(g.From, g.To, now)
		rows = append(rows, []cell{{text: from}, {text: to}, {text: span(g.To.Sub(g.From))}})
	}
	p.rows([]column{{head: "FROM", min: 16}, {head: "TO", min: 16}, {head: "FOR", right: true}}, rows)
}

// reachOf says how far back a history goes.
func reachOf(st *api.HistoryStatus, now time.Time) string {
	if st.Oldest.IsZero() {
		return "nothing is kept yet"
	}
	return "to " + day(st.Oldest, now) + ", " + span(now.Sub(st.Oldest)) + " ago"
}

// historyExportCommand writes the past into a file of others.
func historyExportCommand(g *globals) *command {
	var format, file string
	var when period
	return &command{
		name:    "history export",
		args:    "[FILTER]",
		summary: "Write what is kept of the past in a form that others read",
		about: "As JSON, one event a line, whose keys are the names of fields; or as Parquet, one table with these fields as columns. All that is kept, or what FILTER, --since and --until leave of it. " +
			"The files of the history itself are Parquet too, and can be read in place: docs/history.md has the layout.",
		examples: []example{
			{"warren history export --since 1d 'evt.kind = connection' > connections.json", "The connections of the last day"},
			{"warren history export --format parquet -O history.parquet", "Everything, for DuckDB and its like"},
		},
		flags: append([]*option{
			{long: "format", meta: "FORMAT", choices: []string{"json", "parquet"}, text: &format, doc: "json or parquet (default json)"},
			{long: "file", short: "O", meta: "FILE", text: &file, doc: "write to this file, which must not exist, instead of standard output"},
		}, when.flags()...),
		run: func(ctx context.Context, env *Env, args []string) (err error) {
			if format == "" {
				format = "json"
			}
			if format == "parquet" && file == "" && env.Terminal {
				return usagef("parquet is nothing for a terminal: --file says where to, or lead the output elsewhere")
			}
			who, err := g.answerer(env, &selection{})
			if err != nil {
				return err
			}
			q := api.Question{Filter: filterOf(args)}
			if err := when.ask(&q, env.Now()); err != nil {
				return err
			}
			who.remembered(ctx, &q, false)
			defer func() {
				if err == nil {
					who.broken(ctx)
				}
			}()
			to := env.Stdout
			if file != "" {
				f, failed := newFile(file)
				if failed != nil {
					return failed
				}
				defer func() { err = f.done(err) }()
				to = f
			}
			if format == "json" {
				if q.Since.IsZero() {
					q.Since = time.Unix(0, 0)
				}
				out := *env
				out.Stdout, out.Terminal = to, env.Terminal && file == ""
				err = writeJSON(&out, who.Recent(ctx, q))
				return err
			}
			body, err := who.ExportHistory(ctx, q)
			if err != nil {
				return err
			}
			defer body.Close()
			_, err = io.Copy(to, body)
			return err
		},
	}
}

// A wholeFile is a file that was not there; what could not be written whole is
// removed.
type wholeFile struct{ *os.File }

func newFile(name string) (wholeFile, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return wholeFile{}, fmt.Errorf("write the file: %w", err)
	}
	return wholeFile{f}, nil
}

// done closes the file that was written, or was not because of err.
func (f wholeFile) done(err error) error {
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// historyPruneCommand takes a part of the past away.
func historyPruneCommand(g *globals) *command {
	var before, output string
	var sure bool
	return &command{
		name:    "history prune",
		summary: "Take away what is older than a moment",
		about:   "Whole files go, as they do when the history outgrows its size or age: one that reaches beyond the moment stays. Only root may. It asks first, unless --yes is given.",
		examples: []example{
			{"warren history prune --before 3d --yes", "Keep the last three days"},
		},
		flags: []*option{
			{long: "before", meta: "WHEN", text: &before, doc: "up to when: " + whenDoc},
			{long: "yes", short: "y", yes: &sure, doc: "do not ask"},
			outputFlag(&output, "", "table", "json"),
		},
		run: func(ctx context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			if before == "" {
				return usagef("up to when? --before says it")
			}
			at, err := moment("--before", before, env.Now())
			if err != nil {
				return err
			}
			who, err := g.answerer(env, &selection{})
			if err != nil {
				return err
			}
			if !sure {
				if !env.Terminal || !env.StderrTerminal || env.Stdin == nil {
					return usagef("there is nobody to be asked here: --yes says that it is meant")
				}
				fmt.Fprintf(env.Stderr, "Take away what happened before %s? [y/N] ", at.In(env.Now().Location()).Format("2006-01-02 15:04:05"))
				line, err := bufio.NewReader(env.Stdin).ReadString('\n')
				if err != nil && !errors.Is(err, io.EOF) {
					return fmt.Errorf("read the answer: %w", err)
				}
				if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
					fmt.Fprintln(env.Stderr, "Nothing is taken away.")
					return nil
				}
			}
			done, err := who.PruneHistory(ctx, at)
			if err != nil {
				return err
			}
			if output == "json" {
				return writeValue(env, done)
			}
			text := fmt.Sprintf("taken away: %s, with %s", segmentCount(done.Segments), byteCount(uint64(done.Bytes)))
			if !done.Oldest.IsZero() {
				text += "; the history begins at " + day(done.Oldest, env.Now())
			}
			_, err = fmt.Fprintln(env.Stdout, text)
			return err
		},
	}
}
