#include "tests/mount/oracle.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/catch.h"

namespace daxfs::test {
namespace {

constexpr const char* kPrologue = R"(
export LC_ALL=C TZ=UTC
as() {
  local uid=$1 gid=${2%%,*} groups=${2#*,}
  [ "$2" = "$gid" ] && groups=--clear-groups || groups=--groups=$groups
  shift 2
  setpriv --reuid="$uid" --regid="$gid" "$groups" -- "$@"
}
try() {
  local answer
  printf '$ %s\n' "$*"
  "$@" 2>&1
  answer=$?
  [ $answer = 0 ] || printf '# %d\n' $answer
}
)";

std::string says(const std::string& directory, const std::string& script) {
  const Finished done =
      run({"/bin/bash", "-c", kPrologue + ("cd " + directory + "\n") + script}, 0, kPatience * 10);
  INFO(done.err);
  REQUIRE_FALSE(done.timed_out);
  // What programs say of absolute paths differs.
  std::string out = done.out + done.err;
  for (std::size_t at; (at = out.find(directory)) != out.npos;)
    out.replace(at, directory.size(), "");
  return out;
}

}  // namespace

Ext4::Ext4() {
  need_mounts();
  const std::string image = dir_.path("image");
  const Finished made =
      run({"/bin/bash", "-c",
           "truncate -s 64M " + image + " && mkfs.ext4 -q -b 4096 " + image + " && mkdir " +
               path() + " && mount -o loop,acl,user_xattr " + image + " " + path()});
  if (made.code != 0) skip_here("no ext4 can be mounted here: " + made.err);
}

Ext4::~Ext4() { umount2(path().c_str(), MNT_DETACH); }

void need_command(const std::string& name) {
  if (run({"/bin/bash", "-c", "command -v " + name}).code != 0) skip_here("no command " + name);
}

void require_as_on_ext4(Mount& mount, const Ext4& ext4, const std::string& script,
                        const std::string& again) {
  static int number = 0;
  const std::string name = "/oracle" + std::to_string(++number);
  const std::string here = mount.path() + name;
  const std::string there = ext4.path() + name;
  for (const std::string& directory : {here, there}) REQUIRE(mkdir(directory.c_str(), 0755) == 0);
  const std::string expected = says(there, script);
  CHECK(says(here, script) == expected);
  // A script that says nothing compares nothing.
  REQUIRE(expected.size() > 20);
  if (again.empty()) return;
  mount.remount();
  CHECK(says(here, again) == says(there, again));
}

}  // namespace daxfs::test
