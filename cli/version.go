package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
)

// A Build says what the program was built from.
type Build struct {
	Version  string `json:"version"`            // of the module, or (devel)
	Revision string `json:"revision,omitempty"` // of the repository
	Time     string `json:"time,omitempty"`     // of the revision, RFC 3339
	Modified bool   `json:"modified,omitempty"` // the tree had changes that the revision lacks
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

// ReadBuild returns what the linker wrote into the running program.
func ReadBuild() Build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Build{Version: "(unknown)"}
	}
	b := Build{Version: info.Main.Version, Go: info.GoVersion}
	var system, arch string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		case "GOOS":
			system = s.Value
		case "GOARCH":
			arch = s.Value
		}
	}
	b.Platform = system + "/" + arch
	return b
}

// versionCommand tells what this program is.
func versionCommand() *command {
	var output string
	return &command{
		name:    "version",
		summary: "Print what this program was built from",
		about:   "The version of a running agent is in \"warren status\".",
		examples: []example{
			{"warren version", "Version, revision and compiler"},
			{"warren version -o json", "The same for a script"},
		},
		flags: []*option{outputFlag(&output, "", "table", "json")},
		run: func(_ context.Context, env *Env, args []string) error {
			if err := atMost(0, args); err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(env.Stdout).Encode(env.Build)
			}
			_, err := fmt.Fprintln(env.Stdout, env.Build)
			return err
		},
	}
}

// String returns the build in one line.
func (b Build) String() string {
	s := "warren " + b.Version
	if b.Revision != "" {
		s += " (" + b.Revision[:min(12, len(b.Revision))]
		if b.Modified {
			s += ", modified"
		}
		s += ")"
	}
	return s + " " + b.Go + " " + b.Platform
}
