/*
 * Two ends of TCP in two network namespaces, for the benchmarks of the network.
 *
 *	talk rr|crr CPU MILLISECONDS RATE CLIENT SERVER ADDRESS PORT
 *
 * rr sends a byte and waits for one, over and over on one connection; crr makes
 * a connection for each, which the server closes. CLIENT and SERVER are numbers
 * of open files of the namespaces. Both ends run on CPU, with SCHED_FIFO where
 * that is allowed; -1 leaves it to the kernel. RATE is how many a second at most,
 * 0 as many as can be. It prints
 *
 *	count failed resent slowest nanoseconds fifo
 *
 * where resent are packets that the client sent twice (counted where there is a
 * RATE), slowest is the longest of them, in microseconds, and fifo is 1 where
 * SCHED_FIFO was allowed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_storage address;
static socklen_t address_len;
static int fifo;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wait_until(uint64_t ns)
{
	struct timespec t = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

static void enter(int ns, int cpu)
{
	struct sched_param param = { .sched_priority = 10 };
	cpu_set_t set;

	if (setns(ns, CLONE_NEWNET))
		die("setns");
	if (cpu < 0)
		return;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
	fifo = sched_setscheduler(0, SCHED_FIFO, &param) == 0;
}

/* tcp makes a socket that does not wait for more than a few seconds. */
static int tcp(void)
{
	struct timeval patience = { .tv_sec = 5 };
	int one = 1, fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		die("socket");
	return fd;
}

static void serve(int ready, int many)
{
	int one = 1, l = tcp();
	char byte = 1;

	if (setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) || bind(l, (void *)&address, address_len) ||
	    listen(l, 4096))
		die("listen");
	if (write(ready, &byte, 1) != 1)
		die("write");
	for (;;) {
		int fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			continue;
		do {
			if (recv(fd, &byte, 1, 0) != 1 || send(fd, &byte, 1, MSG_NOSIGNAL) != 1)
				break;
		} while (!many);
		close(fd);
	}
}

static int dial(void)
{
	int fd = tcp();

	if (connect(fd, (void *)&address, address_len) == 0)
		return fd;
	close(fd);
	return -1;
}

static int ask(int fd)
{
	char byte = 1;

	return send(fd, &byte, 1, MSG_NOSIGNAL) == 1 && recv(fd, &byte, 1, 0) == 1 ? 0 : -1;
}

static uint64_t resent(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	memset(&info, 0, sizeof(info));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len))
		die("TCP_INFO");
	return info.tcpi_total_retrans;
}

/* once makes one connection, uses it, and waits for its end. */
static int once(int paced, uint64_t *again)
{
	char byte;
	int fd = dial(), bad;

	if (fd < 0)
		return -1;
	bad = ask(fd) || recv(fd, &byte, 1, 0) != 0;
	if (paced)
		*again += resent(fd);
	close(fd);
	return bad;
}

int main(int argc, char **argv)
{
	uint64_t begin, end, count = 0, failed = 0, again = 0, slowest = 0;
	struct sockaddr_in6 *six = (void *)&address;
	struct sockaddr_in *four = (void *)&address;
	int many, cpu, rate, ready[2], fd = -1;
	pid_t server;
	char byte;

	if (argc != 9) {
		fprintf(stderr, "talk rr|crr CPU MILLISECONDS RATE CLIENT SERVER ADDRESS PORT\n");
		return 2;
	}
	many = strcmp(argv[1], "crr") == 0;
	cpu = atoi(argv[2]);
	rate = atoi(argv[4]);
	if (inet_pton(AF_INET, argv[7], &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(atoi(argv[8]));
		address_len = sizeof(*four);
	} else if (inet_pton(AF_INET6, argv[7], &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(atoi(argv[8]));
		address_len = sizeof(*six);
	} else {
		fprintf(stderr, "no address: %s\n", argv[7]);
		return 2;
	}
	if (pipe(ready))
		die("pipe");
	server = fork();
	if (server < 0)
		die("fork");
	if (server == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		enter(atoi(argv[6]), cpu);
		serve(ready[1], many);
	}
	close(ready[1]);
	if (read(ready[0], &byte, 1) != 1)
		die("server");
	enter(atoi(argv[5]), cpu);

	begin = now();
	end = begin + strtoull(argv[3], NULL, 10) * 1000000;
	if (!many) {
		fd = dial();
		if (fd < 0)
			die("connect");
	}
	for (uint64_t before = begin; before < end;) {
		uint64_t after;

		if (many ? once(rate, &again) : ask(fd))
			failed++;
		else
			count++;
		after = now();
		if (after - before > slowest)
			slowest = after - before;
		if (rate) {
			uint64_t next = begin + (count + failed) * 1000000000 / rate;

			/* Sleeping costs time, too. */
			if (next > after + 100000) {
				wait_until(next);
				after = now();
			}
		}
		before = after;
		if (!many && failed)
			break;
	}
	end = now();
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	printf("%lu %lu %lu %lu %lu %d\n", (unsigned long)count, (unsigned long)failed, (unsigned long)again,
	       (unsigned long)(slowest / 1000), (unsigned long)(end - begin), fifo);
	return 0;
}
