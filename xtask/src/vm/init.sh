#!/bin/busybox sh
export PATH=/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mkdir -p /run/netns
ulimit -l unlimited
for module in $(cat /modules); do modprobe "$module" 2>/dev/null; done
ip link set lo up
echo "kernel $(uname -r)"
failed=0
for test in /tests/*.sh; do
    name=${test##*/}
    name=${name%.sh}
    echo "TEST $name"
    # By its path, or busybox takes its own.
    if timeout 300 /bin/sh -eu /harness.sh "$test"; then
        echo "PASS $name"
    else
        echo "FAIL $name"
        failed=1
    fi
done
# A port of its own, which messages of the kernel can't garble.
echo "status $failed" > /dev/ttyS1
sleep 1
poweroff -f
