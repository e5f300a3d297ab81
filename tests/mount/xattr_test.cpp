// Extended attributes.
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <set>

#include "tests/mount/file_helpers.h"
#include "tests/mount/mount_fixture.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

int set(const std::string& path, const std::string& name, const std::string& value, int flags = 0) {
  return error_of(lsetxattr(path.c_str(), name.c_str(), value.data(), value.size(), flags));
}

std::string get(const std::string& path, const std::string& name) {
  std::string value(1 << 16, '\0');
  const ssize_t got = lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
  if (got < 0) return "errno " + std::to_string(errno);
  value.resize(static_cast<std::size_t>(got));
  return value;
}

int remove(const std::string& path, const std::string& name) {
  return error_of(lremovexattr(path.c_str(), name.c_str()));
}

std::set<std::string> list(const std::string& path) {
  std::string names(1 << 16, '\0');
  const ssize_t got = llistxattr(path.c_str(), names.data(), names.size());
  REQUIRE(got >= 0);
  std::set<std::string> found;
  for (std::size_t at = 0; at < static_cast<std::size_t>(got);) {
    const std::string name = names.c_str() + at;
    REQUIRE(found.insert(name).second);
    at += name.size() + 1;
  }
  return found;
}

}  // namespace

TEST_CASE("attributes are created, replaced, listed and removed") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, "");
  const std::uint64_t before = mount.free();
  CHECK(list(file).empty());
  CHECK(get(file, "user.a") == "errno " + std::to_string(ENODATA));
  CHECK(set(file, "user.a", "1", XATTR_REPLACE) == ENODATA);
  CHECK(set(file, "user.a", "1", XATTR_CREATE) == 0);
  CHECK(set(file, "user.a", "2", XATTR_CREATE) == EEXIST);
  CHECK(get(file, "user.a") == "1");
  CHECK(set(file, "user.a", "2", XATTR_REPLACE) == 0);
  CHECK(set(file, "user.b", "") == 0);
  CHECK(set(file, "trusted.c", std::string("nul\0inside", 10)) == 0);
  CHECK(set(file, "security.d", "d") == 0);
  mount.remount();
  CHECK(get(file, "user.a") == "2");
  CHECK(get(file, "user.b").empty());
  CHECK(get(file, "trusted.c") == std::string("nul\0inside", 10));
  CHECK(list(file) == std::set<std::string>{"user.a", "user.b", "trusted.c", "security.d"});
  CHECK(in_child([&] { return list(file).contains("trusted.c") ? 1 : 0; }, 4242) == 0);
  CHECK(remove(file, "user.b") == 0);
  CHECK(remove(file, "user.b") == ENODATA);
  CHECK(list(file).size() == 3);
  for (const char* name : {"user.a", "trusted.c", "security.d"}) CHECK(remove(file, name) == 0);
  CHECK(mount.free() == before);
}

TEST_CASE("attributes have the limits of Linux") {
  Mount mount;
  const std::string file = mount.path("f");
  write_file(file, "");
  const std::string largest(65536, 'v');
  CHECK(set(file, "user.large", largest) == 0);
  CHECK(difference(get(file, "user.large"), largest) == "");
  CHECK(set(file, "user.large", largest + "v") == E2BIG);
  CHECK(set(file, "user." + std::string(250, 'n'), "x") == 0);
  CHECK(set(file, "user." + std::string(251, 'n'), "x") == ERANGE);
  CHECK(set(file, "user.", "x") != 0);
  CHECK(set(file, "nonsense.x", "x") == EOPNOTSUPP);
  char small[10];
  CHECK(error_of(getxattr(file.c_str(), "user.large", small, sizeof small)) == ERANGE);
  CHECK(getxattr(file.c_str(), "user.large", nullptr, 0) == 65536);
  CHECK(error_of(listxattr(file.c_str(), small, sizeof small)) == ERANGE);
  mount.remount();
  CHECK(difference(get(file, "user.large"), largest) == "");
  REQUIRE(unlink(file.c_str()) == 0);
}

TEST_CASE("directories and symbolic links have attributes where Linux allows them") {
  Mount mount;
  REQUIRE(mkdir(mount.path("d").c_str(), 0755) == 0);
  REQUIRE(symlink("d", mount.path("s").c_str()) == 0);
  CHECK(set(mount.path("d"), "user.a", "x") == 0);
  CHECK(set(mount.path("s"), "user.a", "x") == EPERM);
  CHECK(set(mount.path("s"), "trusted.a", "x") == 0);
  CHECK(get(mount.path("s"), "trusted.a") == "x");
  CHECK(get(mount.path("d"), "user.a") == "x");
  CHECK(list(mount.path("d")).size() == 1);
}

TEST_CASE("attributes of a removed file give their blocks back") {
  Mount mount;
  write_file(mount.path("stays"), "");
  const std::uint64_t before = mount.free();
  write_file(mount.path("f"), "data");
  for (int i = 0; i < 50; ++i) {
    REQUIRE(set(mount.path("f"), "user." + std::to_string(i), std::string(1000, 'x')) == 0);
  }
  CHECK(mount.free() < before - 50'000);
  REQUIRE(unlink(mount.path("f").c_str()) == 0);
  CHECK(mount.space_becomes(before, 0));
}

TEST_CASE("a full pool keeps the attributes that it has") {
  Mount mount({.size = "4M"});
  const std::string file = mount.path("f");
  write_file(file, "");
  REQUIRE(set(file, "user.kept", "kept") == 0);
  int code = 0;
  for (int i = 0; code == 0 && i < 1000; ++i) {
    code = set(file, "user." + std::to_string(i), std::string(60'000, 'x'));
  }
  CHECK(code == ENOSPC);
  CHECK(get(file, "user.kept") == "kept");
  CHECK(get(file, "user.0") == std::string(60'000, 'x'));
}
