#!/bin/sh
# The first process of the emulated machine: `root` is this machine's file system, seen read-only.
# The kernel hands the words behind the two dashes to us: the directory of its modules, the
# project's, and the Python to use.
modules=$1 project=$2 python=$3
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/run TMPDIR=/run PYTHONDONTWRITEBYTECODE=1 UMKTLS_SLOWNESS=10
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs -o size=384m tmpfs /run
mount -t tmpfs -o size=16m tmpfs /mnt
ip link set lo up
# The kernel asks for modules by this program.
printf '#!/bin/sh\nexec modprobe -d %s "$@"\n' "$modules" >/run/modprobe
chmod +x /run/modprobe
echo /run/modprobe >/proc/sys/kernel/modprobe
# What a kernel has built in is no module of it.
modprobe -a -q -d "$modules" virtio_net tls gcm ccm ghash-generic ghash-clmulni-intel aesni-intel \
    chacha20poly1305 chacha-x86_64 poly1305-x86_64
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
cd "$project" && "$python" -S -E -m tests.realkernel.inside
echo o >/proc/sysrq-trigger
exec tail -f /dev/null
