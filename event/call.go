package event

import (
	"runtime"
	"strconv"
)

// A Call describes one system call: by this table alone the kernel's program
// knows what to read of it, events have their arguments, and docs/syscalls.md is
// written.
//
// Names and their order are Falco's, where Falco describes the call, see Order.
type Call struct {
	Name string
	// Numbers on both machines; NoCall where the machine has no such call.
	AMD64, ARM64 uint32
	Doc          string
	Args         []CallArg
	// Order are the names of the arguments in Falco's order, where that has some
	// that are not among Args: these are [noArg].
	Order []string
	// Reads are what the kernel's program copies of the caller's memory, at most
	// MaxReads, in this order.
	Reads []CallRead
	// FD is where the descriptor stands that fd.* tell of: a register, AtResult,
	// or NoFD.
	FD int8
	// FDObject asks for what that descriptor refers to: a path, or a socket's ends.
	FDObject bool
	// Critical calls that succeed travel with processes and cgroups, where no
	// flood drops them: calls that nobody without privileges can make succeed.
	Critical bool
	// Own are the values of the first argument, by bit, with which the agent's own
	// calls are not told: it would tell of itself without end, and of nothing else.
	Own uint64
	// Uring are the operations of io_uring that do the same, with the same arguments.
	Uring []uint8
}

// NoCall is the number of a call that a machine has not.
const NoCall = 1<<32 - 1

// MaxReads is how many pieces of memory a call can have read.
const MaxReads = 4

// Where a value stands, beside the registers 0 to 5.
const (
	AtResult int8 = -1 // what the call returned
	NoFD     int8 = -2
)

// Number returns the call's number on this machine, NoCall where it has none.
func (c *Call) Number() uint32 {
	switch runtime.GOARCH {
	case "amd64":
		return c.AMD64
	case "arm64":
		return c.ARM64
	}
	return NoCall
}

// A Form is what an argument is, and so how it is written.
type Form uint8

// The forms. Those up to FormDevice are compared as numbers.
const (
	FormInt       Form = iota + 1
	FormFD             // a descriptor; negative ones by name: AT_FDCWD
	FormPID            // a process as the caller's pid namespace numbers it
	FormUint           //
	FormDevice         // device number as the kernel encodes it
	FormResult         // 0 or more, or the name of the error
	FormHex            // hexadecimal, capital letters, without 0x
	FormFlags          // names of bits, joined by |
	FormEnum           // a name
	FormMode           // permissions and type of a file, by name, joined by |
	FormSignal         // SIGKILL
	FormSignalSet      // names, separated by blanks
	FormText           // up to a zero byte
	FormBytes          // bytes; what cannot be printed is a dot
	FormAddress        // an address of a socket
)

var formNames = [...]string{"", "int", "fd", "pid", "uint", "device", "result", "hex", "flags", "enum", "mode", "signal", "signal set", "text", "bytes", "address"}

// String returns the form's name.
func (f Form) String() string { return formNames[f] }

// Numeric reports whether values of the argument are compared as numbers.
func (a *CallArg) Numeric() bool { return a.Form <= FormDevice && !a.AsText }

// HasNumber reports whether there is a number behind the form: evt.rawarg.
func (f Form) HasNumber() bool { return f >= FormInt && f <= FormSignal }

// A CallArg is one argument of a call.
type CallArg struct {
	Name string
	Form Form
	// At is the register that holds it, or AtResult. Where Read is not 0, it
	// lies in the memory that Call.Reads[Read-1] took, at Off.
	At   int8
	Read uint8
	Off  uint16
	// Bits is how many of the register count, 64 or 32; signed for FormInt, FormFD and
	// FormPID.
	Bits  uint8
	Names []flagName
	// Mask limits flags to these bits, 0: all. The others are another argument's.
	Mask uint64
	// AsText numbers are written and compared as text.
	AsText bool
	// If says when the call has the argument. Of several arguments of one name
	// the first that is there counts.
	If When
}

// Values returns the names that the argument's value can have, none where it is
// not written by name.
func (a *CallArg) Values() []string {
	names := make([]string, len(a.Names))
	for i, n := range a.Names {
		names[i] = n.name
	}
	return names
}

// ValueName returns a value as the argument writes it.
func (a *CallArg) ValueName(v uint64) string {
	b := appendEnum(nil, v, a.Names)
	if a.Form == FormFlags {
		b = appendFlags(nil, v, a.Names)
	}
	if len(b) == 0 {
		b = strconv.AppendUint(b, v, 10)
	}
	return string(b)
}

// When is a condition on a register: its value is one of those whose bit is set,
// or, with Not, none of them. The zero value always holds. Values of 64 and more
// have no bit.
type When struct {
	At   uint8
	Is   uint64
	Not  bool
	Done bool // the call must have succeeded
}

// Holds reports whether the condition holds for a call.
func (w When) Holds(regs *[6]uint64, result int64) bool {
	if w.Done && result < 0 {
		return false
	}
	if w.Is == 0 {
		return true
	}
	v := uint32(regs[w.At])
	return (v < 64 && w.Is>>v&1 != 0) != w.Not
}

// A ReadHow is a way to read the caller's memory.
type ReadHow uint8

// The ways. The numbers are those of enum read_how of sensor/syscall.
const (
	ReadText    ReadHow = iota + 1 // a string at the address in the register
	ReadBytes                      // bytes, as many as register Len says, or Max
	ReadVector                     // what the first iovec points to
	ReadMessage                    // what the first iovec of a msghdr points to
	ReadName                       // the address in a msghdr
)

// A CallRead is a piece of the caller's memory.
type CallRead struct {
	How ReadHow
	At  uint8  // register with the address
	Len int8   // register with the length; NoLen: Max counts
	Max uint16 // most bytes taken
	If  When
	// ByResult limits the length to what the call returned, where that is more
	// than nothing: data that was transferred.
	ByResult bool
}

// NoLen says that no register holds the length of what is read.
const NoLen int8 = -1

// Limits of what is read, bytes.
const (
	maxPath = 4096
	maxText = 1024
	maxData = 80 // Falco's
	maxAddr = 128
)

// LookupCall returns the description of a call, nil if there is none.
func LookupCall(name string) *Call {
	for i := range Calls {
		if Calls[i].Name == name {
			return &Calls[i]
		}
	}
	return nil
}

// CallIndex returns the place of c in Calls.
func CallIndex(c *Call) int {
	for i := range Calls {
		if &Calls[i] == c {
			return i
		}
	}
	return -1
}

// What follows makes the table short: an argument for each function, of a register.

func regInt(name string, at int8) CallArg {
	return CallArg{Name: name, Form: FormInt, At: at, Bits: 32}
}
func regLong(name string, at int8) CallArg {
	return CallArg{Name: name, Form: FormInt, At: at, Bits: 64}
}
func regUint(name string, at int8) CallArg {
	return CallArg{Name: name, Form: FormUint, At: at, Bits: 32}
}
func regSize(name string, at int8) CallArg {
	return CallArg{Name: name, Form: FormUint, At: at, Bits: 64}
}
func regHex(name string, at int8) CallArg {
	return CallArg{Name: name, Form: FormHex, At: at, Bits: 64}
}
func regFD(name string, at int8) CallArg { return CallArg{Name: name, Form: FormFD, At: at, Bits: 32} }
func regPID(name string, at int8) CallArg {
	return CallArg{Name: name, Form: FormPID, At: at, Bits: 32}
}
func regSig(name string, at int8) CallArg {
	return CallArg{Name: name, Form: FormSignal, At: at, Bits: 32}
}
func regFlags(name string, at int8, names []flagName) CallArg {
	return CallArg{Name: name, Form: FormFlags, At: at, Bits: 32, Names: names}
}
func regEnum(name string, at int8, names []flagName) CallArg {
	return CallArg{Name: name, Form: FormEnum, At: at, Bits: 32, Names: names}
}

// result is what the call returned, by Falco's name for it.
func result() CallArg { return CallArg{Name: "res", Form: FormResult, At: AtResult, Bits: 64} }

// newFD is a result that is a descriptor.
func newFD(name string) CallArg { return CallArg{Name: name, Form: FormFD, At: AtResult, Bits: 64} }

// in moves an argument into the n-th piece of memory, at an offset.
func (a CallArg) in(n uint8, off uint16) CallArg {
	a.Read, a.Off = n+1, off
	return a
}

// when gives an argument a condition.
func (a CallArg) when(w When) CallArg {
	a.If = w
	return a
}

func memText(name string, n uint8) CallArg { return CallArg{Name: name, Form: FormText}.in(n, 0) }
func memData(name string, n uint8) CallArg { return CallArg{Name: name, Form: FormBytes}.in(n, 0) }

func readText(at uint8, limit uint16) CallRead {
	return CallRead{How: ReadText, At: at, Len: NoLen, Max: limit}
}
func readBytes(at uint8, limit uint16) CallRead {
	return CallRead{How: ReadBytes, At: at, Len: NoLen, Max: limit}
}

func (r CallRead) when(w When) CallRead {
	r.If = w
	return r
}

// is is the condition that a register has one of some values below 64.
func is(at uint8, values ...uint8) When {
	w := When{At: at}
	for _, v := range values {
		w.Is |= 1 << v
	}
	return w
}

// no is the contrary of is.
func no(at uint8, values ...uint8) When {
	w := is(at, values...)
	w.Not = true
	return w
}

// done is w for calls that succeeded.
func done(w When) When {
	w.Done = true
	return w
}
