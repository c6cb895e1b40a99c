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
    code=0
    # By its path, or busybox takes its own.
    timeout 300 /bin/sh -eu /harness.sh "$test" || code=$?
    case $code in
        0) echo "PASS $name" ;;
        77) echo "LEFT OUT $name" ;;
        *)
            echo "FAIL $name"
            failed=1
            ;;
    esac
done
# A port of its own, which messages of the kernel can't garble.
echo "status $failed" > /dev/ttyS1
sleep 1
poweroff -f
