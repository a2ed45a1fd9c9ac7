package process

import (
	"encoding/binary"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Programs of a few instructions, made here: they start fast, end as they are
// told, and need no compiler where the tests run. amd64 only, as all that runs
// the kernel tests is.

const programBase = 0x400000

// A program is machine code, at programBase behind the headers.
type program struct{ code []byte }

const programStart = programBase + 64 + 56

// call makes a system call; results are ignored.
func (p *program) call(nr uint32, args ...uint32) *program {
	for i, a := range args {
		// mov edi, esi, edx, r10d: imm32
		p.code = append(p.code, [][]byte{{0xbf}, {0xbe}, {0xba}, {0x41, 0xba}}[i]...)
		p.code = binary.LittleEndian.AppendUint32(p.code, a)
	}
	p.code = append(p.code, 0xb8) // mov eax, imm32
	p.code = binary.LittleEndian.AppendUint32(p.code, nr)
	p.code = append(p.code, 0x0f, 0x05) // syscall
	return p
}

// call32 makes a system call of 32-bit programs, which any program can make.
func (p *program) call32(nr uint32, args ...uint32) *program {
	for i, a := range args {
		p.code = append(p.code, []byte{0xbb, 0xb9, 0xba}[i]) // mov ebx, ecx, edx: imm32
		p.code = binary.LittleEndian.AppendUint32(p.code, a)
	}
	p.code = append(p.code, 0xb8) // mov eax, imm32
	p.code = binary.LittleEndian.AppendUint32(p.code, nr)
	p.code = append(p.code, 0xcd, 0x80) // int 0x80
	return p
}

func (p *program) raw(code ...byte) *program {
	p.code = append(p.code, code...)
	return p
}

// addr is where the next byte will be.
func (p *program) addr() uint32 { return programStart + uint32(len(p.code)) }

// elf is the program as a file, loaded writable.
func (p *program) elf() []byte {
	size := uint64(64 + 56 + len(p.code))
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	u16 := func(v uint16) { b = binary.LittleEndian.AppendUint16(b, v) }
	u32 := func(v uint32) { b = binary.LittleEndian.AppendUint32(b, v) }
	u64 := func(v uint64) { b = binary.LittleEndian.AppendUint64(b, v) }
	u16(2)  // ET_EXEC
	u16(62) // EM_X86_64
	u32(1)
	u64(programStart)
	u64(64) // program headers
	u64(0)
	u32(0)
	u16(64)
	u16(56)
	u16(1)
	u16(64)
	u16(0)
	u16(0)
	u32(1) // PT_LOAD
	u32(7) // readable, writable, executable
	u64(0)
	u64(programBase)
	u64(programBase)
	u64(size)
	u64(size)
	u64(0x1000)
	return append(b, p.code...)
}

// exits is a program that ends at once with a code.
func exits(code uint32) *program {
	return new(program).call(unix.SYS_EXIT_GROUP, code)
}

// waits is a program that does nothing until it is killed.
func waits() *program {
	return new(program).call(unix.SYS_PAUSE).call(unix.SYS_EXIT_GROUP, 0)
}

// leaderless is a program whose first thread ends while another goes on.
func leaderless() *program {
	p := new(program)
	p.call(unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SIGHAND|unix.CLONE_THREAD|unix.CLONE_SYSVSEM, 0, 0, 0)
	p.raw(0x85, 0xc0)        // test eax, eax
	p.raw(0x74, 12)          // jz over the exit
	p.call(unix.SYS_EXIT, 0) // 12 bytes
	return p.call(unix.SYS_PAUSE)
}

// threads is a program of n+1 threads that all make the same call at once.
func threads(n byte, nr, arg uint32) *program {
	p := new(program)
	p.raw(0x41, 0xbc, n, 0, 0, 0) // mov r12d, n
	again := len(p.code)
	p.call(unix.SYS_CLONE, unix.CLONE_VM|unix.CLONE_FS|unix.CLONE_FILES|unix.CLONE_SIGHAND|unix.CLONE_THREAD|unix.CLONE_SYSVSEM, 0, 0, 0)
	p.raw(0x85, 0xc0)       // test eax, eax
	p.raw(0x74, 5+11)       // jz spin
	p.raw(0x41, 0xff, 0xcc) // dec r12d
	p.raw(0x75, byte(again-len(p.code)-2))
	flag := p.addr() + 11 + 13 + 12 + 2 // behind the code
	word := binary.LittleEndian.AppendUint32(nil, flag)
	p.raw(0xc7, 0x04, 0x25).raw(word...).raw(1, 0, 0, 0) // mov dword [flag], 1
	// spin:
	p.raw(0xf3, 0x90)                    // pause
	p.raw(0x8b, 0x04, 0x25).raw(word...) // mov eax, [flag]
	p.raw(0x85, 0xc0)                    // test eax, eax
	p.raw(0x74, byte(256-13))            // jz spin
	p.call(nr, arg)                      // 12 bytes
	p.raw(0xeb, 0xfe)                    // never: for ever
	if p.addr() != flag {
		panic("the flag is not where the code looks for it")
	}
	return p.raw(0, 0, 0, 0)
}

// install writes a program into a new file.
func install(t testing.TB, p *program, name string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), name), p.elf(), 0o755)
}

// starts is a program that starts another n times, one after the other, each
// with the same arguments, by vfork, execve and wait4.
func starts(n uint32, path string, args ...string) *program {
	build := func(data uint32) (p *program, at uint32) {
		p = new(program)
		p.raw(0x41, 0xbc).raw(binary.LittleEndian.AppendUint32(nil, n)...) // mov r12d, n
		again := len(p.code)
		p.call(unix.SYS_VFORK)
		p.raw(0x85, 0xc0, 0x75, 22) // test eax, eax; jnz behind the execve
		p.call(unix.SYS_EXECVE, data+uint32(8*(len(args)+2)), data, 0)
		p.call(unix.SYS_WAIT4, ^uint32(0), 0, 0, 0)
		p.raw(0x41, 0xff, 0xcc) // dec r12d
		p.raw(0x75, byte(again-len(p.code)-2))
		p.call(unix.SYS_EXIT_GROUP, 0)
		return p, p.addr()
	}
	_, data := build(0)
	p, _ := build(data)
	text := data + uint32(8*(len(args)+2))
	for _, s := range append([]string{path}, args...) {
		p.code = binary.LittleEndian.AppendUint64(p.code, uint64(text))
		text += uint32(len(s)) + 1
	}
	p.raw(make([]byte, 8)...)
	for _, s := range append([]string{path}, args...) {
		p.raw(append([]byte(s), 0)...)
	}
	return p
}
