package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"
)

// Record types: enum record_type of include/road.h.
const (
	RecFork   = uint8(roadRecordTypeREC_FORK)
	RecExec   = uint8(roadRecordTypeREC_EXEC)
	RecExit   = uint8(roadRecordTypeREC_EXIT)
	RecCred   = uint8(roadRecordTypeREC_CRED)
	RecNS     = uint8(roadRecordTypeREC_NS)
	RecTask   = uint8(roadRecordTypeREC_TASK)
	RecCgroup = uint8(roadRecordTypeREC_CGROUP)
	RecTry    = uint8(roadRecordTypeREC_ATTEMPT)
	RecTCP    = uint8(roadRecordTypeREC_TCP)
	RecSock   = uint8(roadRecordTypeREC_SOCK)
	RecUDP    = uint8(roadRecordTypeREC_UDP)
	RecUDPEnd = uint8(roadRecordTypeREC_UDP_END)
	RecDNS    = uint8(roadRecordTypeREC_DNS)
	RecOpen   = uint8(roadRecordTypeREC_OPEN)
	RecFile   = uint8(roadRecordTypeREC_FILE)
	RecMount  = uint8(roadRecordTypeREC_MOUNT)
	RecClose  = uint8(roadRecordTypeREC_FILE_CLOSE)
	RecCall   = uint8(roadRecordTypeREC_CALL)
	RecCallUp = uint8(roadRecordTypeREC_CALL_UP)
)

// HeaderLen is the size of struct record, the beginning of every record.
const HeaderLen = int(unsafe.Sizeof(roadRecord{}))

// ErrShort means that a record has fewer bytes than its type: it is damaged, or
// object file and Go type were generated from different sources.
var ErrShort = errors.New("short record")

// A Header is struct record: the beginning of every record.
type Header struct {
	Ktime uint64 // nanoseconds since boot, suspend included; see Wall
	Len   uint32 // of the whole record, bytes
	CPU   uint16
	Type  uint8
	Flags uint8 // the type's own
}

// ParseHeader reads the header of a record. It returns false if rec is shorter
// than a header or than the length that the header claims.
func ParseHeader(rec []byte) (Header, bool) {
	if len(rec) < HeaderLen {
		return Header{}, false
	}
	h := Header{
		Ktime: binary.NativeEndian.Uint64(rec),
		Len:   binary.NativeEndian.Uint32(rec[8:]),
		CPU:   binary.NativeEndian.Uint16(rec[12:]),
		Type:  rec[14],
		Flags: rec[15],
	}
	return h, int64(h.Len) >= int64(HeaderLen) && int64(h.Len) <= int64(len(rec))
}

// View returns rec as the struct that the kernel wrote, without copying. T must
// be a generated type: fixed width, no pointers. Bytes beyond T are the
// record's variable part: rec[unsafe.Sizeof(T):].
func View[T any](rec []byte) (*T, error) {
	if want := int(unsafe.Sizeof(*new(T))); len(rec) < want {
		return nil, fmt.Errorf("%w: %d bytes of %d", ErrShort, len(rec), want)
	}
	return (*T)(unsafe.Pointer(unsafe.SliceData(rec))), nil
}

// CString returns the bytes of a C array up to its NUL, or all of them. It
// copies.
func CString(b []int8) string {
	u := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(b))), len(b))
	for i, c := range u {
		if c == 0 {
			return string(u[:i])
		}
	}
	return string(u)
}
