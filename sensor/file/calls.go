package file

import (
	"fmt"
	"runtime"

	"github.com/cilium/ebpf"
)

// A call is a system call that the programs know.
type call struct {
	name         string // of its tracepoints
	amd64, arm64 int16  // its numbers
}

const noCall = -1 // only old architectures have it

// calls are the calls by the programs' numbers.
var calls = [...]call{
	fileFileWhatFILE_OPEN:           {"open", 2, noCall},
	fileFileWhatFILE_OPENAT:         {"openat", 257, 56},
	fileFileWhatFILE_OPENAT2:        {"openat2", 437, 437},
	fileFileWhatFILE_CREAT:          {"creat", 85, noCall},
	fileFileWhatFILE_OPEN_BY_HANDLE: {"open_by_handle_at", 304, 265},
	fileFileWhatFILE_UNLINK:         {"unlink", 87, noCall},
	fileFileWhatFILE_UNLINKAT:       {"unlinkat", 263, 35},
	fileFileWhatFILE_RMDIR:          {"rmdir", 84, noCall},
	fileFileWhatFILE_RENAME:         {"rename", 82, noCall},
	fileFileWhatFILE_RENAMEAT:       {"renameat", 264, 38},
	fileFileWhatFILE_RENAMEAT2:      {"renameat2", 316, 276},
	fileFileWhatFILE_LINK:           {"link", 86, noCall},
	fileFileWhatFILE_LINKAT:         {"linkat", 265, 37},
	fileFileWhatFILE_SYMLINK:        {"symlink", 88, noCall},
	fileFileWhatFILE_SYMLINKAT:      {"symlinkat", 266, 36},
	fileFileWhatFILE_MKDIR:          {"mkdir", 83, noCall},
	fileFileWhatFILE_MKDIRAT:        {"mkdirat", 258, 34},
	fileFileWhatFILE_CHMOD:          {"chmod", 90, noCall},
	fileFileWhatFILE_FCHMOD:         {"fchmod", 91, 52},
	fileFileWhatFILE_FCHMODAT:       {"fchmodat", 268, 53},
	fileFileWhatFILE_FCHMODAT2:      {"fchmodat2", 452, 452},
	fileFileWhatFILE_CHOWN:          {"chown", 92, noCall},
	fileFileWhatFILE_LCHOWN:         {"lchown", 94, noCall},
	fileFileWhatFILE_FCHOWN:         {"fchown", 93, 55},
	fileFileWhatFILE_FCHOWNAT:       {"fchownat", 260, 54},
	fileFileWhatFILE_TRUNCATE:       {"truncate", 76, 45},
	fileFileWhatFILE_FTRUNCATE:      {"ftruncate", 77, 46},
	fileFileWhatFILE_MOUNT:          {"mount", 165, 40},
	fileFileWhatFILE_UMOUNT:         {"umount", 166, 39}, // umount2(2)
	fileFileWhatFILE_MOVE_MOUNT:     {"move_mount", 429, 429},
	fileFileWhatFILE_CLOSE:          {"close", 3, 57},
	fileFileWhatFILE_CLOSE_DUP2:     {"dup2", 33, noCall},
	fileFileWhatFILE_CLOSE_DUP3:     {"dup3", 292, 24},
}

// number returns the number of a call on an architecture, noCall where it has none.
func (c *call) number(arch string) int16 {
	if arch == "amd64" {
		return c.amd64
	}
	return c.arm64
}

// exists reports whether this architecture has a call of that name.
func exists(name string) bool {
	for i := range calls {
		if calls[i].name == name {
			return calls[i].number(runtime.GOARCH) != noCall
		}
	}
	return false
}

// setCalls tells the programs what each system call is.
func setCalls(spec *ebpf.CollectionSpec) error {
	v := spec.Variables["call_whats"]
	whats := make([]uint8, v.Size())
	for what := range calls {
		if n := calls[what].number(runtime.GOARCH); calls[what].name != "" && n != noCall {
			whats[n] = uint8(what)
		}
	}
	if err := v.Set(whats); err != nil {
		return fmt.Errorf("set call_whats: %w", err)
	}
	return nil
}
