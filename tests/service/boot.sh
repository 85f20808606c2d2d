# systemd as the first process of a machine made of namespaces: its own processes, mounts, cgroups and
# network. Its root lies in memory; programs are the host's, units are the project's and a few empty targets.
#
#     boot.sh MACHINE TREE PROGRAM      becomes it: to be killed with what it started
#
# MACHINE: an empty directory for its root; TREE: the project; PROGRAM: the built thalweg.
set -eu
machine=$1 tree=$2 program=$3

if [ "${4:-}" != inside ]; then
  group=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)/$(basename "$machine")
  mkdir "$group"
  echo $$ > "$group/cgroup.procs"
  echo "$group" > "$machine.group"
  exec unshare --mount --propagation private --pid --fork --kill-child --cgroup --uts --ipc --net \
    bash "$0" "$machine" "$tree" "$program" inside
fi

mount -t tmpfs -o mode=755 tmpfs "$machine"
cd "$machine"
mkdir -p up work usr dev etc/systemd/system proc sys run tmp var/lib var/log root home old
for each in bin sbin lib lib64; do ln -s "usr/$each" "$each"; done
mount -t overlay -o lowerdir=/usr,upperdir=up,workdir=work overlay usr
# None of the host's units: what they start is not asked for here.
mount -t tmpfs tmpfs usr/lib/systemd/system
# A file system of its own: systemd would else mount the kernel's, and write to the host's.
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/shm dev/pts
mknod -m 666 dev/net/tun c 10 200
for each in null:3 zero:5 full:7 random:8 urandom:9; do
  mknod -m 666 "dev/${each%%:*}" c 1 "${each#*:}"
done
ln -s /proc/self/fd dev/fd
touch dev/console
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run

echo 'root:x:0:0:root:/root:/bin/bash' > etc/passwd
echo 'root:x:0:' > etc/group
echo 0123456789abcdef0123456789abcdef > etc/machine-id
if [ -e /etc/ld.so.cache ]; then cp /etc/ld.so.cache etc/; fi
for each in sysinit basic shutdown multi-user network; do
  printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$each" > "etc/systemd/system/$each.target"
done
cp "$tree/packaging/thalweg.service" etc/systemd/system/
cp "$tree/packaging/thalweg.sysusers" usr/lib/sysusers.d/thalweg.conf
touch usr/bin/thalweg
mount --bind "$program" usr/bin/thalweg
pivot_root . old
umount -l /old
systemd-sysusers thalweg.conf
ip link set lo up
container=thalweg-test exec /usr/lib/systemd/systemd --system --unit=multi-user.target \
  --log-target=console
