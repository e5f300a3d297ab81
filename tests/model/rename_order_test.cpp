// Renames lock directories ancestors first, and renames change who is whose ancestor: so one pair
// of directories is locked in both orders, one after the other. No mixture of them may deadlock.
#include <linux/fs.h>
#include <sys/stat.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "blockmap/volume/check.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

using namespace daxfs;
using namespace daxfs::testing;

namespace {

struct TwoDirectories {
  HeapMedium medium{ByteCount(8 << 20)};
  std::unique_ptr<Mounted> mounted;
  // Known to the kernel throughout, so that their locks are the same ones all the time.
  InodeNumber p, q;

  TwoDirectories() {
    format_medium(medium);
    mounted = std::make_unique<Mounted>(medium, mount_options(PinPolicy::refuse));
    p = fs().names().make_directory(kRootInode, "p", 0755, {})->inode;
    q = fs().names().make_directory(kRootInode, "q", 0755, {})->inode;
    for (const InodeNumber directory : {p, q}) {  // never empty, so never removed
      REQUIRE(number_of(fs(), fs().names().make_node(directory, "kept", S_IFREG | 0644, 0, {})));
    }
  }
  Filesystem& fs() { return *mounted->fs; }
  int move(InodeNumber from, const char* name, InodeNumber to, const char* new_name,
           unsigned flags = 0) {
    const Status moved = testing::rename(fs(), from, name, to, new_name, flags);
    return moved ? 0 : moved.error().code;
  }
  void check_at_end() {
    fs().names().forget(p, 1);
    fs().names().forget(q, 1);
    fs().unmount();
    const CheckReport report = check_volume(medium, "pool");
    for (const std::string& error : report.errors) UNSCOPED_INFO(error);
    CHECK(report.ok());
  }
};

}  // namespace

TEST_CASE_METHOD(TwoDirectories, "directories change places, and with them their locks' order",
                 "[model]") {
  REQUIRE(number_of(fs(), fs().names().make_node(p, "file", S_IFREG | 0644, 0, {})));
  CHECK(move(p, "file", q, "file") == 0);  // neither above the other
  CHECK(move(kRootInode, "p", q, "p") == 0);
  CHECK(move(q, "file", p, "file") == 0);  // q above p
  CHECK(move(kRootInode, "q", p, "q") == EINVAL);
  CHECK(move(q, "p", kRootInode, "p") == 0);
  CHECK(move(kRootInode, "q", p, "q") == 0);
  CHECK(move(p, "file", q, "file") == 0);  // p above q
  CHECK(move(p, "q", kRootInode, "p", RENAME_EXCHANGE) == EINVAL);
  CHECK(move(p, "q", kRootInode, "p") == ENOTEMPTY);
  check_at_end();
}

TEST_CASE_METHOD(TwoDirectories,
                 "threads move two directories below each other while others use them", "[model]") {
  constexpr int kMoves = 10000;
  std::atomic<int> moved{0};
  std::atomic<int> moved_below{0};
  {
    std::vector<std::jthread> threads;
    for (unsigned mover = 0; mover < 2; ++mover) {
      threads.emplace_back([this, mover, &moved, &moved_below] {
        std::minstd_rand random(mover + 1);
        for (int i = 0; i < kMoves; ++i) {
          switch (random() % 5) {
            case 0:
              moved_below += move(kRootInode, "p", q, "p") == 0;
              break;
            case 1:
              moved_below += move(kRootInode, "q", p, "q") == 0;
              break;
            case 2:
              moved += move(q, "p", kRootInode, "p") == 0;
              break;
            case 3:
              moved += move(p, "q", kRootInode, "q") == 0;
              break;
            default:
              moved += move(p, "file", q, "file", random() % 2 ? RENAME_EXCHANGE : 0) == 0;
          }
        }
      });
    }
    for (unsigned user = 0; user < 3; ++user) {
      threads.emplace_back([this, user] {
        std::minstd_rand random(user + 10);
        for (int i = 0; i < kMoves; ++i) {
          const InodeNumber in = random() % 2 ? p : q;
          const InodeNumber other = random() % 2 ? p : q;
          (void)number_of(fs(), fs().names().make_node(in, "file", S_IFREG | 0644, 0, {}));
          (void)number_of(fs(), fs().names().make_directory(in, "d", 0755, {}));
          (void)move(in, "file", other, "file");
          (void)fs().names().remove_directory(other, "d");
          (void)fs().names().remove_directory(q, "p");  // locks q, then p
          (void)fs().names().remove_directory(p, "q");
          (void)fs().names().unlink(other, "file");
        }
      });
    }
  }
  CHECK(moved > 0);
  CHECK(moved_below > 0);
  check_at_end();
}
