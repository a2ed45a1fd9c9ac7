/*
 * The load of the benchmarks: a program without a C library, so that starting
 * it costs what the kernel costs and nothing else.
 *
 *	load storm SECONDS COUNT   start "load child N", N = 0, 1, ..., with vfork
 *	                           and exec as fast as can be, for that time or
 *	                           that many; prints how many
 *	load child N               exit with N % 251
 *	load calls N               make N harmless system calls; prints picoseconds
 *	                           for each
 *	load personas N            the same with calls of personality(2)
 *	load opens BATCHES N MICROSECONDS PATH  open and close a file N times, and
 *	                           again after a pause; prints picoseconds of each
 *	                           in the fastest batch
 *	load flood SECONDS PATH CANARY N  open and close PATH as fast as can be for
 *	                           that time, and CANARY each Nth time instead;
 *	                           prints how often each
 *	load connections COUNT PORT  start "load connect PORT" that many times
 *	load connect PORT          connect to 127.0.0.1:PORT, live 1 ms, close
 */
#include <stddef.h>
#include <stdint.h>
#include <linux/in.h>
#include <linux/time.h>
#include <asm/unistd.h>

#define SIGCHLD	    17
#define SIG_IGN	    ((void *)1)
#define AF_INET	    2
#define SOCK_STREAM 1
#define AT_FDCWD    -100

static long call(long nr, long a, long b, long c, long d)
{
	register long r10 asm("r10") = d;
	long ret;

	asm volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return ret;
}

static void exit(long code)
{
	for (;;)
		call(__NR_exit_group, code, 0, 0, 0);
}

static uint64_t nanoseconds(void)
{
	struct timespec now;

	call(__NR_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0, 0);
	return (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static long number(const char *s)
{
	long n = 0;

	for (; *s >= '0' && *s <= '9'; s++)
		n = 10 * n + *s - '0';
	return n;
}

/* decimal writes n and a zero byte before end, and gives where it begins. */
static char *decimal(char *end, uint64_t n)
{
	*--end = 0;
	do {
		*--end = '0' + n % 10;
		n /= 10;
	} while (n);
	return end;
}

static void print(uint64_t n)
{
	char text[24], *begin = decimal(text + sizeof(text), n);

	text[sizeof(text) - 1] = '\n';
	call(__NR_write, 1, (long)begin, text + sizeof(text) - begin, 0);
}

/*
 * start runs a program of which nobody waits to hear. The child shares our
 * memory and stack until it execs, so it writes nothing.
 */
static int start(char *const *argv)
{
	static char *const envp[] = { NULL };
	long pid = call(__NR_vfork, 0, 0, 0, 0);

	if (pid == 0) {
		call(__NR_execve, (long)argv[0], (long)argv, (long)envp, 0);
		exit(255);
	}
	return pid > 0 ? 0 : -1;
}

/* wait_all returns when every child has ended; ignored ones are not zombies. */
static void wait_all(void)
{
	while (call(__NR_wait4, -1, 0, 0, 0) >= 0)
		;
}

static void ignore_children(void)
{
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} action = { .handler = SIG_IGN };

	call(__NR_rt_sigaction, SIGCHLD, (long)&action, 0, sizeof(action.mask));
}

static int storm(char *self, long seconds, long count)
{
	uint64_t end = nanoseconds() + (uint64_t)seconds * 1000000000;
	char text[24];
	long n = 0;

	ignore_children();
	while (n < count && ((n & 15) || nanoseconds() < end)) {
		char *argv[] = { self, "child", decimal(text + sizeof(text), n), NULL };

		/* Too many at once: they end, then there is room again. */
		if (start(argv) == 0)
			n++;
	}
	wait_all();
	print(n);
	return 0;
}

static int calls(long count)
{
	uint64_t begin = nanoseconds();

	for (long i = 0; i < count; i++)
		call(__NR_getppid, 0, 0, 0, 0);
	print((nanoseconds() - begin) * 1000 / count);
	return 0;
}

static int personas(long count)
{
	uint64_t begin = nanoseconds();

	for (long i = 0; i < count; i++)
		call(__NR_personality, 0xffffffff, 0, 0, 0);
	print((nanoseconds() - begin) * 1000 / count);
	return 0;
}

static int open_close(const char *path)
{
	long fd = call(__NR_openat, AT_FDCWD, (long)path, 0, 0);

	if (fd < 0)
		return -1;
	call(__NR_close, fd, 0, 0, 0);
	return 0;
}

static int opens(long batches, long count, long microseconds, const char *path)
{
	struct timespec pause = { .tv_nsec = microseconds * 1000 };
	uint64_t least = UINT64_MAX;

	for (; batches > 0; batches--) {
		uint64_t begin = nanoseconds(), took;

		for (long i = 0; i < count; i++)
			if (open_close(path) < 0)
				return 1;
		took = nanoseconds() - begin;
		if (took < least)
			least = took;
		call(__NR_nanosleep, (long)&pause, 0, 0, 0);
	}
	print(least * 1000 / count);
	return 0;
}

static int flood(long seconds, const char *path, const char *canary, long every)
{
	uint64_t end = nanoseconds() + (uint64_t)seconds * 1000000000;
	uint64_t paths = 0, canaries = 0;

	while (((paths + canaries) & 255) || nanoseconds() < end) {
		int is_canary = every && (paths + canaries) % every == 0;

		if (open_close(is_canary ? canary : path) < 0)
			return 1;
		if (is_canary)
			canaries++;
		else
			paths++;
	}
	print(paths);
	print(canaries);
	return 0;
}

static int connect_once(long port)
{
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = (uint16_t)(port >> 8 | port << 8),
		.sin_addr.s_addr = 0x0100007f,
	};
	struct timespec life = { .tv_nsec = 1000000 };
	long fd = call(__NR_socket, AF_INET, SOCK_STREAM, 0, 0);

	if (fd < 0 || call(__NR_connect, fd, (long)&to, sizeof(to), 0) < 0)
		return 1;
	call(__NR_nanosleep, (long)&life, 0, 0, 0);
	call(__NR_close, fd, 0, 0, 0);
	return 0;
}

static int connections(char *self, long count, char *port)
{
	char *argv[] = { self, "connect", port, NULL };

	ignore_children();
	for (long n = 0; n < count;)
		if (start(argv) == 0)
			n++;
	wait_all();
	return 0;
}

static int command(long argc, char **argv)
{
	char first = argc > 2 ? argv[1][0] : 0;

	/* Commands are told apart by one letter, or two. */
	if (first == 's' && argc == 4)
		return storm(argv[0], number(argv[2]), number(argv[3]));
	if (first == 'c' && argv[1][1] == 'h')
		return number(argv[2]) % 251;
	if (first == 'c' && argv[1][1] == 'a')
		return calls(number(argv[2]));
	if (first == 'c' && argc == 4)
		return connections(argv[0], number(argv[2]), argv[3]);
	if (first == 'c')
		return connect_once(number(argv[2]));
	if (first == 'p' && argc == 3)
		return personas(number(argv[2]));
	if (first == 'o' && argc == 6)
		return opens(number(argv[2]), number(argv[3]), number(argv[4]), argv[5]);
	if (first == 'f' && argc == 6)
		return flood(number(argv[2]), argv[3], argv[4], number(argv[5]));
	return 2;
}

__attribute__((used)) void run(long *stack)
{
	exit(command(stack[0], (char **)(stack + 1)));
}

/* The kernel starts us with argc, argv and the rest on the stack. */
asm(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n");
