package event

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// Open is a file that a process opened, or tried to.
//
// Its paths are two: Name is what the kernel's own objects say the descriptor
// refers to, read after the call; NameRaw is what the process asked for, which
// another thread may have changed meanwhile. Where there is no Name, Error says
// why.
type Open struct {
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res    Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	RawRes int64  `field:"evt.rawres" doc:"what the system call returned: 0 or more, or a negative error number"`

	Name     string    `field:"fd.name" doc:"absolute path of the file as the process sees it, from the kernel's own objects"`
	NameRaw  string    `field:"fd.nameraw" doc:"path as the process gave it; another thread may have changed it meanwhile"`
	NoName   bool      `field:"fd.name_unresolved,omitzero" doc:"true when a path is not known for certain: it is missing, and what was asked for stands beside it"`
	Error    PathError `field:"fd.name_error" doc:"why a path is not known: failed (the call did, there is no object), closed (the descriptor was, before it could be looked at), detached (the file lies on nothing that is mounted), escaped (it was moved out of what is mounted), too_long, unproven (the kernel shows no object that proves it)"`
	Mismatch bool      `field:"fd.name_mismatch,omitzero" doc:"true when what was asked for cannot name what was opened: the path was changed during the call"`
	FileObject

	// Dir is the descriptor that a relative NameRaw begins at, AtCwd for the
	// working directory.
	Dir   int32  `column:"open.dirfd"`
	Flags uint64 `column:"open.flags"` // O_* of open(2) as the process gave them, and OpenCreated, OpenUpper, OpenLower
	Mode  uint32 `column:"open.mode"`  // the argument of that name; of calls that may create only

	Read    bool `field:"evt.is_open_read" doc:"true when the file was opened, or was to be opened, for reading"`
	Write   bool `field:"evt.is_open_write" doc:"true when the file was opened, or was to be opened, for writing"`
	Exec    bool `field:"evt.is_open_exec" doc:"true when the call was to create the file with permission to execute"`
	Create  bool `field:"evt.is_open_create" doc:"true when the call created the file: it did not exist before"`
	IOUring bool `field:"evt.io_uring,omitzero" doc:"true when the call was asked for by io_uring"`

	_ struct{} `field:"fd.num" type:"int" doc:"number of the descriptor"`
	_ struct{} `field:"fd.directory" type:"string" doc:"directory that the file lies in: fd.name up to its last slash"`
	_ struct{} `field:"fd.filename" type:"string" doc:"name of the file in its directory: fd.name behind its last slash"`
	_ struct{} `field:"fd.containerdirectory" type:"string" virtual:"1" doc:"container.id, a colon and fd.directory"`
	_ struct{} `field:"fd.containername" type:"string" virtual:"1" doc:"container.id, a colon and fd.name"`
	_ struct{} `field:"fd.is_upper_layer" type:"bool" virtual:"1" doc:"true when the file lies in the upper layer of an overlay"`
	_ struct{} `field:"fd.is_lower_layer" type:"bool" virtual:"1" doc:"true when the file lies in a lower layer of an overlay"`
	_ struct{} `field:"fd.type" type:"string" doc:"type of the descriptor: file, directory"`
	_ struct{} `field:"fd.typechar" type:"string" virtual:"1" doc:"type of the descriptor as one letter: f, d"`
	_ struct{} `field:"fs.path.name" type:"string" virtual:"1" doc:"absolute path of the file"`
	_ struct{} `field:"fs.path.nameraw" type:"string" virtual:"1" doc:"path as the process gave it"`
	_ struct{} `field:"evt.arg.flags" type:"string" doc:"flags of the call, by name, joined by |"`
	_ struct{} `field:"evt.arg.mode" type:"string" doc:"mode that a new file was to have, octal"`
	_ struct{} `field:"evt.arg.name" type:"string" virtual:"1" doc:"path: the absolute one where it is known, else as the process gave it"`
	_ struct{} `field:"evt.arg.dirfd" type:"string" doc:"descriptor that a relative path begins at: AT_FDCWD, or its number"`
}

// Kind implements [Data].
func (*Open) Kind() Kind { return KindOpen }

// FileObject is the object in the kernel that a path or a descriptor led to.
// Inode 0: there was none, or it could not be seen.
type FileObject struct {
	Inode    uint64 `field:"fd.ino,omitzero" doc:"inode number of the file"`
	Dev      uint64 `field:"fd.dev,omitzero" doc:"device number of the file's file system, as the kernel encodes it"`
	FileMode uint32 `column:"file.mode_bits"` // type and permissions, as stat(2) has them
	FileUID  uint32 `column:"file.uid"`
	Links    uint32 `column:"file.links"` // how many names the file has
	Deleted  bool   `field:"file.deleted,omitzero" doc:"true when the file had no name left where it was opened"`
	Memfd    bool   `field:"file.memfd,omitzero" doc:"true when the file is an anonymous one in memory (memfd_create)"`

	_ struct{} `field:"fd.dev.major" type:"uint" virtual:"1" doc:"major number of fd.dev"`
	_ struct{} `field:"fd.dev.minor" type:"uint" virtual:"1" doc:"minor number of fd.dev"`
	_ struct{} `field:"fd.uid" type:"string" virtual:"1" doc:"id of the thread and number of the descriptor, one behind the other"`
	_ struct{} `field:"file.type" type:"string" doc:"type of the file: regular, directory, symlink, char, block, fifo, socket"`
	_ struct{} `field:"file.mode" type:"string" doc:"permissions of the file, octal"`
	_ struct{} `field:"file.uid" type:"uint" doc:"owner of the file"`
	_ struct{} `field:"file.links" type:"uint" doc:"how many names the file has"`
}

// AtCwd stands for the working directory where a descriptor could: AT_FDCWD.
const AtCwd int32 = unix.AT_FDCWD

// What an [Open] knows beside the flags of the call.
const (
	OpenCreated uint64 = 1 << (32 + iota) // the file did not exist before
	OpenUpper                             // it lies in the upper layer of an overlay
	OpenLower                             // it lies in a lower layer
)

// A PathError says why a path is not known.
type PathError uint8

// Why paths are not known.
const (
	PathKnown    PathError = iota
	PathFailed             // the call failed: there is no object
	PathClosed             // the descriptor was closed before it could be looked at
	PathDetached           // the file lies on a mount that is mounted nowhere
	PathEscaped            // the file was moved out of what is mounted
	PathTooLong            // longer than 4096 bytes
	PathUnproven           // nothing in the kernel proves it
	numPathErrors
)

var pathErrors = [numPathErrors]string{"", "failed", "closed", "detached", "escaped", "too_long", "unproven"}

// String returns the reason as the field fd.name_error has it.
func (p PathError) String() string {
	if p < numPathErrors {
		return pathErrors[p]
	}
	return strconv.Itoa(int(p))
}

// File is a call that changed what is in a directory, or what a file is: a name
// was made, moved or removed; mode, owner or size was changed.
//
// Calls with one name have it in Name; renames, links and symlinks have two,
// Source and Target. As in [Open], a name is what the kernel's objects say, and
// absent where they do not prove it; Raw is what the process asked for.
type File struct {
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res    Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	RawRes int64  `field:"evt.rawres" doc:"what the system call returned: 0 or more, or a negative error number"`

	Name      string `field:"fs.path.name" doc:"absolute path of the file as the process sees it, from the kernel's own objects"`
	NameRaw   string `field:"fs.path.nameraw" doc:"path as the process gave it"`
	Source    string `field:"fs.path.source" doc:"of a call with two paths, the one that was there before: a symlink's is what it points at"`
	SourceRaw string `field:"fs.path.sourceraw" doc:"fs.path.source as the process gave it"`
	Target    string `field:"fs.path.target" doc:"of a call with two paths, the new one"`
	TargetRaw string `field:"fs.path.targetraw" doc:"fs.path.target as the process gave it"`
	// FDName is the path behind a descriptor, of calls that are given one.
	FDName   string    `field:"fd.name" doc:"path of the file, of a call that was given its descriptor"`
	NoName   bool      `field:"fd.name_unresolved,omitzero" doc:"true when a path is not known for certain: it is missing, and what was asked for stands beside it"`
	Error    PathError `field:"fd.name_error" doc:"why a path is not known"`
	Mismatch bool      `field:"fd.name_mismatch,omitzero" doc:"true when what was asked for cannot name what was changed: the path was changed during the call"`
	FileObject

	FD      int32  `column:"fd.num" null:"-1"` // the descriptor of a call that is given one, else -1
	Dir     int32  `column:"file.dirfd"`       // the descriptor that a relative path begins at, AtCwd for the working directory
	NewDir  int32  `column:"file.newdirfd"`    // the same for the target
	Flags   uint32 `column:"file.flags"`       // of unlinkat, renameat2, linkat, fchmodat2, fchownat
	Mode    uint32 `column:"file.mode_arg"`    // of mkdir and chmod
	UID     uint32 `column:"file.new_uid"`     // of chown; 2^32-1: unchanged
	GID     uint32 `column:"file.new_gid"`     // likewise
	Size    int64  `column:"file.new_size"`    // of truncate
	IOUring bool   `field:"evt.io_uring,omitzero" doc:"true when the call was asked for by io_uring"`

	_ struct{} `field:"fd.num" type:"int" doc:"number of the descriptor"`
	_ struct{} `field:"fd.directory" type:"string" doc:"directory that the file lies in"`
	_ struct{} `field:"fd.filename" type:"string" doc:"name of the file in its directory"`
	_ struct{} `field:"evt.arg.path" type:"string" virtual:"1" doc:"path: the absolute one where it is known, else as the process gave it"`
	_ struct{} `field:"evt.arg.name" type:"string" virtual:"1" doc:"path: the absolute one where it is known, else as the process gave it"`
	_ struct{} `field:"evt.arg.filename" type:"string" virtual:"1" doc:"path of the file whose mode or owner was changed"`
	_ struct{} `field:"evt.arg.pathname" type:"string" virtual:"1" doc:"path of the file whose owner was changed"`
	_ struct{} `field:"evt.arg.oldpath" type:"string" virtual:"1" doc:"path before a rename, or that a link was made of"`
	_ struct{} `field:"evt.arg.newpath" type:"string" virtual:"1" doc:"path after a rename, or of a new link"`
	_ struct{} `field:"evt.arg.target" type:"string" virtual:"1" doc:"what a new symlink points at, as the process gave it"`
	_ struct{} `field:"evt.arg.linkpath" type:"string" virtual:"1" doc:"path of a new symlink"`
	_ struct{} `field:"evt.arg.dirfd" type:"string" doc:"descriptor that a relative path begins at: AT_FDCWD, or its number"`
	_ struct{} `field:"evt.arg.newdirfd" type:"string" doc:"descriptor that the relative path of the target begins at"`
	_ struct{} `field:"evt.arg.flags" type:"string" doc:"flags of the call, by name, joined by |"`
	_ struct{} `field:"evt.arg.mode" type:"string" doc:"mode: by name, joined by |, of chmod; octal of mkdir"`
	_ struct{} `field:"evt.arg.uid" type:"uint" doc:"new owner"`
	_ struct{} `field:"evt.arg.gid" type:"uint" doc:"new group"`
	_ struct{} `field:"evt.arg.length" type:"int" doc:"new size, bytes"`
}

// Kind implements [Data].
func (*File) Kind() Kind { return KindFile }

// Mount is a call that changed what is mounted where.
type Mount struct {
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	Res    Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	RawRes int64  `field:"evt.rawres" doc:"what the system call returned: 0 or more, or a negative error number"`

	Source    string    `field:"evt.arg.dev" doc:"what was mounted, as the process gave it: a device, a directory, a name"`
	SourceRaw string    `field:"fs.path.sourceraw" doc:"fs.path.source as the process gave it"`
	Target    string    `field:"fs.path.target" doc:"absolute path of the place, as the process sees it, from the kernel's own objects"`
	TargetRaw string    `field:"fs.path.targetraw" doc:"fs.path.target as the process gave it"`
	FSType    string    `field:"evt.arg.type" doc:"type of the file system, as the process gave it"`
	Flags     uint64    `column:"mount.flags"` // MS_*, MNT_* or MOVE_MOUNT_*
	NoName    bool      `field:"fd.name_unresolved,omitzero" doc:"true when a path is not known for certain: it is missing, and what was asked for stands beside it"`
	Error     PathError `field:"fd.name_error" doc:"why a path is not known"`

	_ struct{} `field:"fs.path.name" type:"string" virtual:"1" doc:"absolute path of the place"`
	_ struct{} `field:"fs.path.nameraw" type:"string" virtual:"1" doc:"place as the process gave it"`
	_ struct{} `field:"fs.path.source" type:"string" virtual:"1" doc:"what was mounted"`
	_ struct{} `field:"evt.arg.dir" type:"string" virtual:"1" doc:"place: the absolute path where it is known, else as the process gave it"`
	_ struct{} `field:"evt.arg.name" type:"string" virtual:"1" doc:"place that was unmounted"`
	_ struct{} `field:"evt.arg.flags" type:"string" doc:"flags of the call, by name, joined by |"`
}

// Kind implements [Data].
func (*Mount) Kind() Kind { return KindMount }

// FileClose is a file that the process had open for writing and that it closed:
// by each close(2), and by the other ways on which a descriptor goes if nobody else
// had the file then.
type FileClose struct {
	Type   string `field:"evt.type" doc:"type of the event: the system call's name, or what the kernel did"`
	By     string `field:"evt.closed_by" doc:"what took the descriptor: close; or, if nothing else had the file, dup2 or dup3 over it, close_range, exec (it was marked so), exit (the process ended)"`
	Res    Errno  `field:"evt.res" doc:"SUCCESS, or the name of the error"`
	RawRes int64  `field:"evt.rawres" doc:"what the system call returned: 0 or more, or a negative error number"`

	FD     int32     `field:"fd.num" doc:"number of the descriptor"`
	Name   string    `field:"fd.name" doc:"absolute path of the file as the process sees it, from the kernel's own objects"`
	NoName bool      `field:"fd.name_unresolved,omitzero" doc:"true when a path is not known for certain"`
	Error  PathError `field:"fd.name_error" doc:"why a path is not known"`
	FileObject
	Size    int64 `field:"file.size" doc:"size of the file, bytes"`
	IOUring bool  `field:"evt.io_uring,omitzero" doc:"true when the call was asked for by io_uring"`

	_ struct{} `field:"fd.directory" type:"string" doc:"directory that the file lies in"`
	_ struct{} `field:"fd.filename" type:"string" doc:"name of the file in its directory"`
	_ struct{} `field:"fd.type" type:"string" doc:"type of the descriptor"`
	_ struct{} `field:"fd.typechar" type:"string" virtual:"1" doc:"type of the descriptor as one letter"`
	_ struct{} `field:"fs.path.name" type:"string" virtual:"1" doc:"absolute path of the file"`
}

// Kind implements [Data].
func (*FileClose) Kind() Kind { return KindFileClose }
