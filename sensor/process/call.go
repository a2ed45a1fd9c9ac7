package process

import "runtime"

// The kernel tells which system call a task is in by its number, which differs
// between machines; 32-bit programs on amd64 have a table of their own. None at
// all is 2^32-1: then the kernel itself acted.

// compatForks and so on are 32-bit x86's (arch/x86/entry/syscalls/syscall_32.tbl).
var (
	compatForks = map[uint32]string{2: "fork", 120: "clone", 190: "vfork", 435: "clone3"}
	compatCreds = map[uint32]string{
		23: "setuid", 46: "setgid", 70: "setreuid", 71: "setregid", 138: "setfsuid", 139: "setfsgid", 164: "setresuid", 170: "setresgid",
		185: "capset", 203: "setreuid", 204: "setregid", 208: "setresuid", 210: "setresgid", 213: "setuid", 214: "setgid", 215: "setfsuid", 216: "setfsgid",
	}
	compatNS = map[uint32]string{310: "unshare", 346: "setns"}
)

var (
	forkCalls = map[string]map[uint32]string{
		"amd64": {56: "clone", 57: "fork", 58: "vfork", 435: "clone3"},
		"arm64": {220: "clone", 435: "clone3"},
	}[runtime.GOARCH]
	credCalls = map[string]map[uint32]string{
		"amd64": {
			105: "setuid", 106: "setgid", 113: "setreuid", 114: "setregid", 117: "setresuid", 119: "setresgid", 122: "setfsuid", 123: "setfsgid",
			126: "capset",
		},
		"arm64": {
			91: "capset", 143: "setregid", 144: "setgid", 145: "setreuid", 146: "setuid", 147: "setresuid", 149: "setresgid", 151: "setfsuid",
			152: "setfsgid",
		},
	}[runtime.GOARCH]
	nsCalls = map[string]map[uint32]string{
		"amd64": {272: "unshare", 308: "setns"},
		"arm64": {97: "unshare", 268: "setns"},
	}[runtime.GOARCH]
)

// x32Bit marks calls of the x32 ABI, whose table is amd64's but for the newest.
const x32Bit = 1 << 30

func callName(table, compatTable map[uint32]string, nr uint32, compat bool, other string) string {
	if compat {
		table = compatTable
	} else if nr != 1<<32-1 {
		nr &^= x32Bit
	}
	if name, ok := table[nr]; ok {
		return name
	}
	return other
}

func forkType(nr uint32, compat bool) string {
	return callName(forkCalls, compatForks, nr, compat, "clone")
}

func credType(nr uint32, compat bool) string {
	return callName(credCalls, compatCreds, nr, compat, "commit_creds")
}

// nsType says setns where the kernel does not tell: a process that moves by
// other means joins a namespace that is there.
func nsType(nr uint32, compat bool) string {
	return callName(nsCalls, compatNS, nr, compat, "setns")
}
