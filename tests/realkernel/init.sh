#!/bin/sh
# What the emulated machine does: `root` is this machine's file system, seen read-only. The kernel
# hands the words behind the two dashes to us: the directory of its modules, the project's, the
# Python to use, and the tests.
modules=$1 project=$2 python=$3
shift 3
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/run TMPDIR=/run PYTHONDONTWRITEBYTECODE=1 UMKTLS_SLOWNESS=10
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o size=256m tmpfs /run
ip link set lo up
# One by one: what a kernel has built in is no module of it.
for module in tls gcm ccm ghash-generic ghash-clmulni-intel aesni-intel chacha20poly1305 \
    chacha-x86_64 poly1305-x86_64; do
    modprobe -d "$modules" "$module" 2>/dev/null
done
cd "$project" && "$python" -m pytest -p no:cacheprovider -q -rx --tb=short "$@" 2>&1
echo "exit code: $?"
echo o >/proc/sysrq-trigger
exec tail -f /dev/null
