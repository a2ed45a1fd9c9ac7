package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// shown is an agent that knows one process.
type shown struct {
	Agent
	line string
}

func (s shown) Process(context.Context, string, ...string) ([]byte, error) {
	return []byte(s.line), nil
}

func TestOpenFiles(t *testing.T) {
	line := `{"proc.pid":7,"proc.name":"x","proc":{"files":[` +
		`{"fd":0,"target":"/dev/null","type":"char","flags":"O_RDONLY"},` +
		`{"fd":1,"target":"/var/log/x","type":"file","flags":"O_WRONLY|O_APPEND","pos":1569,"deleted":true},` +
		`{"fd":2,"target":"/y","type":"file","flags":"O_RDWR","outside_root":true},` +
		`{"fd":3,"target":"directory:[3]","type":"directory","flags":"O_PATH","path_error":"detached"},` +
		`{"fd":4,"target":"tcp 127.0.0.1:80->127.0.0.1:4242","type":"socket","flags":"O_RDWR|O_NONBLOCK","socket":{"state":"connected"}},` +
		`{"fd":5,"target":"/proc"}],"files_open":9}}`
	const want = `
Open files
  FD  TYPE       OPENED FOR               AT  WHAT
   0  char       read                         /dev/null
   1  file       write, append          1569  /var/log/x (deleted)
   2  file       read, write                  /y (not below its root)
   3  directory  path                         directory:[3] (no path: detached)
   4  socket     read, write, nonblock        tcp 127.0.0.1:80->127.0.0.1:4242 connected
   5                                          /proc
                   and 3 more
`
	var out bytes.Buffer
	if code := Main(t.Context(), testEnv(&out, shown{line: line}), []string{"process", "show", "7"}); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("%s\nwant at its end%s", out.String(), want)
	}
}
