// Groups and capabilities of a thread.
#include "base/credentials.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "tests/unit/catch.h"
#include "tests/unit/child_process.h"

using namespace daxfs;

TEST_CASE("credentials: nobody is in no group and may nothing") {
  for (const pid_t thread : {0, -1, 0x7fffffff}) {
    const Credentials none = credentials_of(thread);
    CHECK(none.groups.empty());
    CHECK(none.capabilities == 0);
    CHECK_FALSE(none.has(CAP_FSETID));
    CHECK_FALSE(none.is_in(0));
  }
}

TEST_CASE("credentials: groups are read however many there are, and capabilities behind them") {
  if (geteuid() != 0) return;
  std::vector<gid_t> groups;
  for (gid_t group = 100'000; groups.size() < 3000; ++group) groups.push_back(group);
  const std::vector<gid_t> before = [] {
    std::vector<gid_t> own(static_cast<std::size_t>(getgroups(0, nullptr)));
    REQUIRE(getgroups(static_cast<int>(own.size()), own.data()) >= 0);
    return own;
  }();
  const Credentials own = credentials_of(gettid());
  REQUIRE(setgroups(groups.size(), groups.data()) == 0);
  const Credentials many = credentials_of(gettid());
  REQUIRE(setgroups(before.size(), before.data()) == 0);
  CHECK(many.groups == groups);
  CHECK(many.is_in(100'000));
  CHECK(many.is_in(102'999));
  CHECK_FALSE(many.is_in(103'000));
  CHECK(own.groups == before);
  CHECK(many.capabilities == own.capabilities);
  CHECK(own.has(CAP_FSETID) == (prctl(PR_CAPBSET_READ, CAP_FSETID) == 1));
}
