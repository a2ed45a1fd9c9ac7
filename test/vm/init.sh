#!/bin/busybox sh
# The first process of a machine that runs tests. Kernel messages go to the
# first serial line. On the second it asks for work (VM-NEXT), is told a package's
# folder and its tests, or an empty line, and writes what the tests print.
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/bin HOME=/root TMPDIR=/tmp

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /tmp /run /root /etc
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd
echo root:x:0:0:root:/root:/bin/sh >/etc/passwd
echo root:x:0: >/etc/group
echo 127.0.0.1 localhost >/etc/hosts
hostname warren-test

exec </dev/ttyS1 >/dev/ttyS1 2>&1
# Raw: a terminal would turn each newline into two bytes, and say again what it is
# told.
stty raw -echo 115200

for module in /modules/*.ko; do
	[ -e "$module" ] && { insmod "$module" </dev/null || echo "VM-ERROR cannot load $module"; }
done
ip link set lo up </dev/null

echo "VM-KERNEL $(uname -r)"
while echo VM-NEXT && read -r dir tests && [ -n "$dir" ]; do
	cd "/tests/$dir" || { echo "VM-ERROR no tests in $dir"; continue; }
	echo "VM-BEGIN $dir $tests"
	GOTRACEBACK=all ./test -test.v -test.short -test.run "$tests" -test.timeout "$(cat /tests/timeout)" </dev/null
	echo "VM-END $dir $?"
done
echo VM-DONE
poweroff -f
