/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the syscall sensor sends, and what it is told to read. Go's types are generated from these. */
#ifndef SYSCALL_RECORD_H
#define SYSCALL_RECORD_H

#define READS_MAX 4 /* pieces of memory that a call can have read: event.MaxReads */

/* Ways to read the caller's memory: event.ReadHow. */
enum read_how {
	READ_TEXT = 1,
	READ_BYTES,
	READ_VECTOR,
	READ_MESSAGE,
	READ_NAME,
};

enum read_flags {
	READ_BY_RESULT = 1 << 0, /* no more than the call returned */
	READ_DONE = 1 << 1,	 /* only of calls that succeeded */
	READ_NOT = 1 << 2,	 /* only where the register has none of the values */
};

#define NO_REGISTER 0xff
#define AT_RESULT   0xfe

/* event.CallRead */
struct read_plan {
	__u64 is; /* values of register if_at, by bit; 0: any */
	__u16 max;
	__u8 how; /* enum read_how; 0: nothing */
	__u8 at;
	__u8 len_at; /* NO_REGISTER: max counts */
	__u8 if_at;
	__u8 flags; /* enum read_flags */
	__u8 zero;
};

/* What to tell of a call: event.Call. */
struct call_plan {
	struct read_plan reads[READS_MAX];
	__u64 own;     /* values of the first argument, by bit, with which the agent's own calls are not told */
	__u16 call;    /* place in event.Calls, plus one; 0: nothing */
	__u8 fd_at;    /* register of the descriptor, AT_RESULT, NO_REGISTER */
	__u8 object;   /* tell what the descriptor refers to */
	__u8 critical; /* on the critical ring, if it succeeded */
	__u8 zero[3];
};

/* What a descriptor refers to. All zero: nothing is known. */
struct fd_object {
	__u32 mode; /* as stat(2) has it */
	__u16 family;
	__u16 type;
	__u16 protocol;
	__u16 local_port, remote_port; /* host byte order */
	__u16 path_len;		       /* the path is behind what was read */
	__u32 path_end;		       /* enum path_end */
	__u8 local[16], remote[16];    /* IPv4 in the first four */
	__u64 magic;		       /* of the file system */
};

/* Followed by what was read, in the order of the plan, and the object's path. */
struct syscall_record {
	struct record hdr;
	struct task_key key;
	__s64 ret;
	__u64 example; /* of events that are counted: count.h */
	__u64 args[6];
	struct fd_object object;
	__u16 call;	       /* place in event.Calls, plus one */
	__u16 lens[READS_MAX]; /* bytes of each piece */
	__u8 there;	       /* which pieces were read, by bit */
	__u8 bad;	       /* which could not be read */
	__u8 cut;	       /* which are longer */
	__u8 uring;	       /* enum uring_marks */
	__u16 zeros;
};

enum uring_marks {
	CALL_URING = 1 << 0,  /* io_uring was asked for it */
	CALL_DIRECT = 1 << 1, /* what it made is in the ring's own table, and no descriptor */
};

#endif /* SYSCALL_RECORD_H */
