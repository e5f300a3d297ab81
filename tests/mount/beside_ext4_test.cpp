// What random operations beside ext4 (tests/differential) have found to differ once.
#include <string>

#include "tests/mount/mount_fixture.h"
#include "tests/mount/oracle.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

TEST_CASE("beside ext4: a chown that changes nothing takes set-id bits away") {
  need_command("setpriv");
  need_command("setfattr");
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    capability=0x0100000200200000000000000000000000000000
    none() { /usr/bin/python3 -c 'import os, sys; os.chown(sys.argv[1], -1, -1)' "$1" 2>&1 | tail -n 1; }
    for mode in 4755 2755 2745 6711; do
      touch f; chown 100:100 f; chmod $mode f; none f; stat -c '%A %n' f
      chmod $mode f; as 100 100 /usr/bin/python3 -c 'import os; os.chown("f", -1, -1)'; stat -c '%A %n' f
      mkdir d; chmod $mode d; none d; stat -c '%A %n' d; rm -r f d
      mkfifo p; chmod $mode p; setfattr -n security.capability -v $capability p
      none p; stat -c '%A %n' p; rm p
      echo what was taken away before says nothing of what comes later
      touch f; chmod $mode f; setfattr -n security.capability -v $capability f; chown 100:100 f
      chmod $mode f; none f; stat -c '%A %n' f; rm f
    done
    )sh",
                     "ls");
}

TEST_CASE("beside ext4: a chown leaves a directory its security.capability") {
  need_command("setfattr");
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    for f in d f; do
      [ $f = d ] && mkdir d || touch f
      setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 $f
      getfattr -m - $f; chown 100:100 $f; getfattr -m - $f
    done
    )sh",
                     "getfattr -m - d f");
}

TEST_CASE("beside ext4: a write takes security.capability away, and leaves root's set-id bits") {
  need_command("setfattr");
  Mount mount({.options = std::string("cache=") + GENERATE("through", "writeback", "none")});
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    for user in "0 0" "100 100"; do
      echo text > f; chmod 6777 f
      setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 f
      as $user sh -c 'printf more >> f'; stat -c '%A %s' f; getfattr -m - f; rm f
    done
    echo what was written before takes nothing away when it is written back
    exec 5<>f; printf text >&5
    setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 f
    sync f; getfattr -m - f
    )sh",
                     "ls");
}

TEST_CASE("beside ext4: a namespace alone is no name of an attribute") {
  need_command("setfattr");
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    touch f
    for name in user. trusted. security. nobody.a user; do
      try setfattr -n $name -v x f; try getfattr -n $name f; try setfattr -x $name f
    done
    )sh",
                     "getfattr -m - f");
}

TEST_CASE("beside ext4: a directory that was removed while it is open changes still") {
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    mkdir d; try /usr/bin/python3 -c '
import os
fd = os.open("d", os.O_RDONLY)
os.rmdir("d")
os.fchmod(fd, 0o4711); os.fchown(fd, 100, 200); os.utime(fd, ns=(10**9, 2 * 10**9))
s = os.fstat(fd)
print(oct(s.st_mode), s.st_uid, s.st_gid, s.st_nlink, s.st_atime, s.st_mtime)'
    )sh",
                     "ls");
}

TEST_CASE("beside ext4: to allocate what is there is a change") {
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    for how in "-l 8192" "-n -l 8192" "-z -l 4096" "-p -l 4096" "-n -o 1M -l 4096"; do
      dd if=/dev/zero of=f bs=8192 count=1 2>/dev/null; touch -d 2001-01-01 f
      try fallocate $how f; [ $(stat -c %Y f) -gt 1000000000 ] && echo "$how: later"; stat -c %s f
    done
    )sh",
                     "stat -c %s f");
}
