#!/bin/busybox sh
# The first process of the machine that runs the tests. Kernel messages go to
# the first serial line, results to the second.
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

exec >/dev/ttyS1 2>&1
# Raw: a terminal would turn each newline into two bytes.
stty -F /dev/ttyS1 raw -echo 115200 <&1

for module in /modules/*.ko; do
	[ -e "$module" ] && { insmod "$module" || echo "VM-ERROR cannot load $module"; }
done
ip link set lo up

echo "VM-KERNEL $(uname -r)"
while read -r dir tests; do
	cd "/tests/$dir"
	echo "VM-BEGIN $dir"
	GOTRACEBACK=all ./test -test.v -test.short -test.run "$tests" -test.timeout "$(cat /tests/timeout)" </dev/null
	echo "VM-END $dir $?"
done </tests/list
echo VM-DONE
poweroff -f
