// POSIX access control lists: what ext4 makes of the same commands, and what forged ones get.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/mount/oracle.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr const char* kAccess = "system.posix_acl_access";
constexpr const char* kDefault = "system.posix_acl_default";

struct Entry {
  std::uint16_t tag;
  std::uint16_t permissions;
  std::uint32_t id = UINT32_MAX;
};

std::string list(const std::vector<Entry>& entries) {
  const std::uint32_t version = 2;
  std::string out(reinterpret_cast<const char*>(&version), sizeof version);
  for (const Entry& entry : entries) {
    out.append(reinterpret_cast<const char*>(&entry), sizeof entry);
  }
  return out;
}

int set(const std::string& path, const char* name, const std::string& value) {
  return error_of(lsetxattr(path.c_str(), name, value.data(), value.size(), 0));
}

std::string get(const std::string& path, const char* name) {
  std::string value(1 << 16, '\0');
  const ssize_t got = lgetxattr(path.c_str(), name, value.data(), value.size());
  if (got < 0) return "errno " + std::to_string(errno);
  value.resize(static_cast<std::size_t>(got));
  return value;
}

// Nobody else's mode, and what is made with it is made.
struct Umask {
  explicit Umask(mode_t mask) : before(umask(mask)) {}
  ~Umask() { umask(before); }
  const mode_t before;
};

void need_acl_tools() {
  for (const char* command : {"setfacl", "getfacl", "setpriv"}) need_command(command);
}

}  // namespace

TEST_CASE("acl: lists, modes and who may do what are as on ext4") {
  need_acl_tools();
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    touch f; chmod 640 f; chown 100:100 f; echo text > f
    try setfacl -m u:4242:rw,g:4343:r f; stat -c %A f; getfacl -nc f
    try as 4242 4242 cat f; try as 4242 4242 sh -c 'echo more >> f'
    try as 4343 4343 cat f; try as 4343 4343 sh -c 'echo more >> f'
    try as 4444 4444 cat f; try as 4444 4444,4343 cat f
    echo chmod keeps the mask in step
    try chmod 600 f; getfacl -nc f; try as 4242 4242 cat f
    try chmod 6770 f; stat -c %A f; getfacl -nc f; try as 4242 4242 sh -c 'echo more >> f'
    echo only the owner, and whoever root trusts, may set one
    try as 4242 4242 setfacl -m u:4242:rwx f; try as 100 100 setfacl -m o::r f; stat -c %A f
    try as 4242 4242 setfacl -b f; try as 4242 4242 chmod 777 f
    echo one that is a mode is none
    try setfacl -b f; getfacl -nc f; getfattr -m - f
    try setfacl --set u::r,g::rwx,o::x f; stat -c %A f; getfattr -m - f
    try setfacl -m m::r f; stat -c %A f; getfattr -m - f; getfacl -nc f; try chmod 770 f; getfacl -nc f
    try setfattr -x system.posix_acl_access f; stat -c %A f
    try setfattr -x system.posix_acl_access f; try setfattr -x system.posix_acl_default f
    echo what the owner may do, the list does not say
    touch owned; chown 100:100 owned; try setfacl --set u::-,u:100:rwx,g::rwx,o::rwx,m::rwx owned
    try as 100 100 cat owned; try as 4242 100 cat owned; try as 4242 4242 cat owned
    try setfacl --set u::rwx,g::-,o::rwx owned; try as 4242 100 cat owned; try as 4242 4242 cat owned
    echo others, links, devices
    ln -s f s; try setfacl -m u:4242:r s; getfacl -nc f; try getfattr -h -n system.posix_acl_access s
    mkfifo p; try setfacl -m u:4242:rw p; getfacl -nc p; stat -c %A p
    ln f hard; try setfacl -m u:7:rwx hard; getfacl -nc f
    try setfacl -d -m u:4242:r f; try setfacl -k f
    )sh",
                     "getfacl -nc f hard owned p; stat -c '%A %n' *");
}

TEST_CASE("acl: what new files inherit is as on ext4") {
  need_acl_tools();
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    look() { for at in "$@"; do stat -c '%A %u %g %n' $at; getfacl -nc $at 2>&1; getfattr -m - $at; done; }
    umask 022; mkdir plain; touch plain/f; mkdir plain/d; mkfifo plain/p; (umask 0; touch plain/g; mkdir plain/e)
    (umask 077; touch plain/h; mknod plain/n c 1 3); stat -c '%A %n' plain/*
    mkdir d; try setfacl -d --set u::rwx,u:4242:rwx,g::rx,g:4343:rw,m::rwx,o::r d; look d
    touch d/f; mkdir d/sub; mkfifo d/p; mknod d/n c 1 3; ln -s f d/s; look d/f d/sub d/p d/n
    (umask 0777; touch d/umask; mkdir d/umasked); look d/umask d/umasked
    touch d/sub/f; mkdir d/sub/sub; look d/sub/f d/sub/sub
    cp f d 2>&1; echo '#!/bin/sh' > d/script; chmod +x d/script; look d/script
    mkdir -m 700 d/private; look d/private; install -m 751 d/script d/installed; look d/installed
    echo a default list that is a mode
    mkdir bare; try setfacl -d --set u::rwx,g::rwx,o::- bare; look bare; umask 077
    touch bare/f; mkdir bare/d; look bare/f bare/d; umask 022
    echo an access list is not inherited
    mkdir own; setfacl -m u:4242:rwx own; touch own/f; mkdir own/d; look own/f own/d
    echo with set-group-id
    chown 100:100 d; chmod 2775 d; try as 100 100 mkdir d/t1; try as 100 101 mkdir d/t2
    try as 100 101 touch d/t3; try as 4242 4242 sh -c 'umask 0; touch d/t4; mkdir d/t5'; look d/t?
    try setfacl -k d; look d; touch d/after; look d/after
    mv d/f plain; look plain/f
    )sh",
                     "getfacl -nc d/* bare/* own/* plain/* d/sub/*; stat -c '%A %n' * */*");
}

TEST_CASE("acl: what unnamed files and whiteouts inherit is as on ext4") {
  Mount mount;
  const Ext4 ext4;
  const Umask mask(027);
  const auto seen_in = [](const std::string& directory) {
    std::vector<std::string> seen;
    const auto note = [&seen](const std::string& path) {
      seen.push_back(std::to_string(status_of(path).st_mode));
      seen.push_back(get(path, kAccess));
    };
    for (const std::string name : {"/plain", "/lists", "/bare"}) {
      const std::string at = directory + name;
      REQUIRE(mkdir(at.c_str(), 0755) == 0);
      const std::vector<Entry> named = {{1, 7}, {2, 7, 4242}, {4, 5}, {0x10, 7}, {0x20, 4}};
      if (name == "/lists") REQUIRE(set(at, kDefault, list(named)) == 0);
      if (name == "/bare") REQUIRE(set(at, kDefault, list({{1, 6}, {4, 5}, {0x20, 3}})) == 0);
      const daxfs::UniqueFd fd = open_file(at, O_TMPFILE | O_RDWR, 0676);
      struct stat unnamed {};
      REQUIRE(fstat(fd.get(), &unnamed) == 0);
      seen.push_back(std::to_string(unnamed.st_mode));
      REQUIRE(linkat(fd.get(), "", AT_FDCWD, (at + "/named").c_str(), AT_EMPTY_PATH) == 0);
      note(at + "/named");
      write_file(at + "/old", "x");
      note(at + "/old");
      REQUIRE(renameat2(AT_FDCWD, (at + "/old").c_str(), AT_FDCWD, (at + "/new").c_str(),
                        RENAME_WHITEOUT) == 0);
      note(at + "/old");
      note(at + "/new");
    }
    return seen;
  };
  CHECK(seen_in(mount.path()) == seen_in(ext4.path()));
}

TEST_CASE("acl: set-group-id goes where a stranger to the group sets a mode or a list") {
  need_acl_tools();
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    for make in touch mkdir; do
      $make t; chown 100:100 t
      for group in 100 101 101,100; do
        chmod 2755 t; try as 100 $group chmod 2777 t; stat -c %A t
        chmod 2755 t; try as 100 $group setfacl -m u::rwx,g::rwx,o::rwx t; stat -c %A t
        chmod 2755 t; try as 100 $group setfacl -m u:7:rwx t; stat -c %A t; setfacl -b t
        chmod 2755 t; try as 100 $group setfacl -m u:7:rwx t; try as 100 $group setfacl -b t; stat -c %A t
      done
      try as 101 101 chmod 2777 t
      chmod 2755 t; try setfacl -m u:7:rwx t; stat -c %A t
      rm -r t
    done
    mkdir d; chown 100:100 d; chmod 2755 d; try as 100 101 setfacl -d -m u:7:r d; stat -c %A d
    )sh");
}

TEST_CASE("acl: copies, archives and rsync carry them as on ext4") {
  need_acl_tools();
  Mount mount;
  const Ext4 ext4;
  require_as_on_ext4(mount, ext4, R"sh(
    umask 022; mkdir -p from/sub; echo x > from/f; echo y > from/sub/g
    setfacl -m u:4242:rw,g:4343:r from/f; setfacl -m u:7:x,d:u:4242:rwx,d:g::- from/sub; chmod 604 from/sub/g
    look() { (cd $1; find . | sort | xargs getfacl -n; stat -c '%A %n' * */*); }
    try cp -a from cp; look cp
    try tar --acls -C from -cf t.tar .; mkdir tar; try tar --acls -C tar -xpf t.tar; look tar
    command -v rsync >/dev/null && { try rsync -aA from/ rsync; look rsync; }
    find from | sort | xargs getfacl -n > saved; setfacl -bR from; look from; try setfacl --restore=saved; look from
    cp from/f plain; getfacl -nc plain; try cp -p from/f kept; getfacl -nc kept
    mv from/f moved; getfacl -nc moved
    )sh",
                     "find . | sort | xargs getfacl -n");
}

TEST_CASE("acl: forged lists get the errors of ext4, and change nothing") {
  Mount mount;
  const Ext4 ext4;
  const std::vector<Entry> good = {{0x01, 6}, {0x02, 7, 1}, {0x04, 4}, {0x10, 4}, {0x20, 0}};
  std::vector<std::string> forged = {
      "", "x", list(good).substr(1), list(good).substr(0, 43), list(good) + "x", list({})};
  for (const char version : {'\0', '\1', '\3'}) {
    forged.push_back(list(good));
    forged.back()[0] = version;
  }
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const int tag : {0, 1, 2, 3, 4, 8, 0x10, 0x20, 0x40, 0xff}) {
      auto bad = good;
      bad[i].tag = static_cast<std::uint16_t>(tag);
      forged.push_back(list(bad));
      bad.insert(bad.begin() + static_cast<std::ptrdiff_t>(i), good[i]);
      forged.push_back(list(bad));
    }
    auto bad = good;
    bad[i].permissions = 8;
    forged.push_back(list(bad));
    bad.erase(bad.begin() + static_cast<std::ptrdiff_t>(i));
    forged.push_back(list(bad));
  }
  for (const std::string& directory : {mount.path(), ext4.path()}) {
    write_file(directory + "/f", "");
    REQUIRE(mkdir((directory + "/d").c_str(), 0755) == 0);
  }
  for (const std::string& value : forged) {
    for (const char* target : {"/f", "/d"}) {
      for (const char* name : {kAccess, kDefault}) {
        INFO(name << " of " << target << ", " << value.size() << " bytes, number "
                  << (&value - forged.data()));
        const std::string here = mount.path() + target, there = ext4.path() + target;
        for (const std::string& path : {here, there}) {
          REQUIRE(set(path, kAccess, list(good)) == 0);
          REQUIRE(chmod(path.c_str(), 0640) == 0);
        }
        CHECK(set(here, name, value) == set(there, name, value));
        CHECK(status_of(here).st_mode == status_of(there).st_mode);
        CHECK(get(here, kAccess) == get(there, kAccess));
        CHECK(get(here, kDefault) == get(there, kDefault));
      }
    }
  }
}

TEST_CASE("acl: the longest list is 4096 bytes") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, "");
  std::vector<Entry> many = {{0x01, 6}, {0x04, 4}, {0x10, 4}, {0x20, 0}};
  for (std::uint32_t i = 0; i < 507; ++i) many.insert(many.begin() + 1, {0x02, 7, i});
  REQUIRE(list(many).size() == 4092);
  CHECK(set(file, kAccess, list(many)) == 0);
  many.insert(many.begin() + 1, {0x02, 7, 507});
  CHECK(set(file, kAccess, list(many)) == E2BIG);
  mount.remount();
  CHECK(get(file, kAccess).size() == 4092);
  CHECK((status_of(file).st_mode & 07777) == 0640);
}

TEST_CASE("acl: noacl knows none, and chmod keeps them in step all the same") {
  Mount mount;
  const std::string file = mount.path("f"), directory = mount.path("d");
  const std::string value = list({{0x01, 6}, {0x02, 7, 1}, {0x04, 4}, {0x10, 4}, {0x20, 0}});
  write_file(file, "");
  REQUIRE(mkdir(directory.c_str(), 0755) == 0);
  REQUIRE(set(file, kAccess, value) == 0);
  REQUIRE(set(directory, kDefault, value) == 0);
  mount.remount("noacl");
  CHECK(get(file, kAccess) == "errno " + std::to_string(EOPNOTSUPP));
  CHECK(set(file, kAccess, value) == EOPNOTSUPP);
  CHECK(error_of(lremovexattr(file.c_str(), kAccess)) == EOPNOTSUPP);
  CHECK(llistxattr(file.c_str(), nullptr, 0) == 0);
  {
    const Umask mask(027);
    write_file(directory + "/new", "");
  }
  CHECK((status_of(directory + "/new").st_mode & 0777) == 0640);
  REQUIRE(chmod(file.c_str(), 0604) == 0);
  mount.remount();
  CHECK(get(file, kAccess) == list({{0x01, 6}, {0x02, 7, 1}, {0x04, 4}, {0x10, 0}, {0x20, 4}}));
  CHECK(get(directory + "/new", kAccess) == "errno " + std::to_string(ENODATA));
}

TEST_CASE("acl: a full pool refuses a list, and a mode that needs one, and changes nothing") {
  Mount mount({.size = "4M"});
  const std::string file = mount.path("f"), directory = mount.path("d");
  const std::string value = list({{0x01, 6}, {0x02, 7, 1}, {0x04, 4}, {0x10, 4}, {0x20, 0}});
  write_file(file, "");
  write_file(mount.path("g"), "");
  REQUIRE(mkdir(directory.c_str(), 0755) == 0);
  REQUIRE(set(file, kAccess, value) == 0);
  REQUIRE(set(directory, kDefault, value) == 0);
  write_file(directory + "/first", "");  // from here on it has a block of names
  const daxfs::UniqueFd filler = open_file(mount.path("filler"), O_CREAT | O_WRONLY);
  const std::string block(kBlock, 'x');
  while (write(filler.get(), block.data(), block.size()) > 0) {
  }
  REQUIRE(mount.free() == 0);
  CHECK(error_of(chmod(file.c_str(), 0660)) == ENOSPC);
  CHECK((status_of(file).st_mode & 0777) == 0640);
  CHECK(get(file, kAccess) == value);
  CHECK(set(mount.path("g"), kAccess, value) == ENOSPC);
  CHECK((status_of(mount.path("g")).st_mode & 0777) == 0644);
  CHECK(error_of(open((directory + "/new").c_str(), O_CREAT | O_WRONLY, 0644)) == ENOSPC);
  CHECK(error_of(access((directory + "/new").c_str(), F_OK)) == ENOENT);
  CHECK(error_of(mkdir((directory + "/sub").c_str(), 0755)) == ENOSPC);
  CHECK(status_of(directory).st_nlink == 2);
  CHECK(error_of(open(directory.c_str(), O_TMPFILE | O_RDWR, 0644)) == ENOSPC);
  CHECK(error_of(renameat2(AT_FDCWD, (directory + "/first").c_str(), AT_FDCWD,
                           (directory + "/moved").c_str(), RENAME_WHITEOUT)) == ENOSPC);
  CHECK(S_ISREG(status_of(directory + "/first").st_mode));
  CHECK(error_of(access((directory + "/moved").c_str(), F_OK)) == ENOENT);
  CHECK(mount.free() == 0);
  REQUIRE(chmod(file.c_str(), 0640) == 0);  // it is that already
  REQUIRE(chmod(mount.path("g").c_str(), 0600) == 0);
}
