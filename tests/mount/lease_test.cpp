// Whose a lease is: its open file description's, whichever process asks through it, and nobody
// else's, not even its process's.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <future>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 8;
constexpr std::array kPolicies{"refuse", "defer", "wait", "break", "ignore"};

int punch_through(int fd) {
  return error_of(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kBlock, kBlock));
}
int cut_through(int fd) { return error_of(ftruncate(fd, 4 * kBlock)); }

struct Leased : Mount {
  Leased()
      : Mount({.options = "unsafe_demo,short_timeout=20s,wait_timeout=20s,break_timeout=20s"}) {}

  // Anew: the file, and this process's lease over all of it.
  void take(std::uint32_t flags = 0) {
    fd = {};
    write_file(file, pattern(kBlocks * kBlock, 1));
    write_file(source, pattern(kBlock, 2));
    fd = open_file(file, O_RDWR);
    REQUIRE(daxfs_lease(fd.get(), 0, kBlocks * kBlock, flags, &lease) == 0);
  }
  // Another holder, which stays: a process with a lease over all of it.
  std::unique_ptr<Holder> other_holder() const {
    auto holder = std::make_unique<Holder>([this] {
      const int own = open(file.c_str(), O_RDONLY | O_CLOEXEC);
      std::uint64_t id = 0;
      return error_of(daxfs_lease(own, 0, kBlocks * kBlock, 0, &id));
    });
    REQUIRE(holder->result() == 0);
    return holder;
  }
  // The next event's type, or 0 if there is none.
  std::uint32_t told(pid_t by) const {
    daxfs_event event{};
    if (daxfs_next_event(fd.get(), &event) != 0) {
      CHECK(errno == EAGAIN);
      return 0;
    }
    CHECK(event.lease_id == lease);
    CHECK(event.pid == by);
    return event.type;
  }

  const std::string file = path("f");
  const std::string source = path("source");
  daxfs::UniqueFd fd;
  std::uint64_t lease = 0;
};

// Also asked in threads, which must not assert.
daxfs::UniqueFd opened(const Leased& of, int flags) {
  return daxfs::UniqueFd(open(of.file.c_str(), flags | O_CLOEXEC));
}

// How the holder's own process can ask otherwise than through its lease's descriptor.
struct Way {
  const char* name;
  int (*act)(const Leased& of);
};
constexpr std::array<Way, 5> kOtherWays{{
    {"punch through another open()",
     [](const Leased& of) { return punch_through(opened(of, O_RDWR).get()); }},
    {"ftruncate through another open()",
     [](const Leased& of) { return cut_through(opened(of, O_RDWR).get()); }},
    {"truncate by path", [](const Leased& of) { return shrink(of.file, kBlock); }},
    {"O_TRUNC", [](const Leased& of) { return opened(of, O_WRONLY | O_TRUNC) ? 0 : errno; }},
    {"rename over it",
     [](const Leased& of) { return error_of(rename(of.source.c_str(), of.file.c_str())); }},
}};

}  // namespace

TEST_CASE_METHOD(Leased, "through its own descriptor nobody meets a lease, not even a child") {
  for (const char* policy : kPolicies) {
    REQUIRE(switch_policy(*this, policy) == 0);
    for (const std::uint32_t flags : {0u, DAXFS_LEASE_EXCLUSIVE}) {
      INFO(policy << ", flags " << flags);
      take(flags);
      CHECK(punch_through(fd.get()) == 0);
      CHECK(cut_through(fd.get()) == 0);
      CHECK(data_parts(file) == Parts{{0, kBlock}, {2 * kBlock, 4 * kBlock}});

      take(flags);
      const daxfs::UniqueFd copy(fcntl(fd.get(), F_DUPFD_CLOEXEC, 3));
      CHECK(punch_through(copy.get()) == 0);
      // A child that has inherited the descriptor is the same holder.
      CHECK(in_child([this] { return cut_through(fd.get()); }) == 0);
      CHECK(in_child([this] { return punch_through(fd.get()); }) == 0);
      CHECK(status_of(file).st_size == off_t(4 * kBlock));
      CHECK(told(getpid()) == 0);
      CHECK(daxfs_unlease(fd.get(), lease) == 0);
    }
  }
}

TEST_CASE_METHOD(Leased, "an exclusive lease keeps out its own process, too, by every other way") {
  for (const char* policy : kPolicies) {
    REQUIRE(switch_policy(*this, policy) == 0);
    const bool ignored = std::string(policy) == "ignore";
    for (const Way& way : kOtherWays) {
      INFO(policy << ", " << way.name);
      take(DAXFS_LEASE_EXCLUSIVE);
      const Snapshot before(file);
      next_tick();
      CHECK(way.act(*this) == (ignored ? 0 : ETXTBSY));
      if (!ignored) CHECK(Snapshot(file) == before);
      CHECK(told(getpid()) == (ignored ? DAXFS_EVENT_CHANGED : 0));
      CHECK(daxfs_unlease(fd.get(), lease) == 0);
    }
  }
}

TEST_CASE_METHOD(Leased, "a shared lease is told of its own process's other ways") {
  for (const char* policy : kPolicies) {
    REQUIRE(switch_policy(*this, policy) == 0);
    // It would wait for itself.
    const bool breaks = std::string(policy) == "break";
    for (const Way& way : kOtherWays) {
      INFO(policy << ", " << way.name);
      take();
      const Snapshot before(file);
      next_tick();
      CHECK(way.act(*this) == (breaks ? EDEADLK : 0));
      if (breaks) CHECK(Snapshot(file) == before);
      CHECK(told(getpid()) == (breaks ? 0 : DAXFS_EVENT_CHANGED));
      CHECK(daxfs_unlease(fd.get(), lease) == 0);
    }
  }
}

TEST_CASE_METHOD(Leased, "break: who waits for others as well asks its own process, too") {
  REQUIRE(switch_policy(*this, "break,break_timeout=10m") == 0);
  for (const bool own_first : {true, false}) {
    for (const Way& way : kOtherWays) {
      INFO(way.name << ", own lease first: " << own_first);
      take();
      const auto other = other_holder();
      const Snapshot before(file);
      auto asking = std::async(std::launch::async, [&] { return way.act(*this); });
      const bool waits = waiting_becomes(*this, 1);
      CHECK(waits);
      CHECK(told(getpid()) == DAXFS_EVENT_BREAK);
      if (own_first) CHECK(daxfs_unlease(fd.get(), lease) == 0);
      other->die();
      CHECK(asking.get() == (own_first ? 0 : EDEADLK));
      if (own_first) continue;
      CHECK(Snapshot(file) == before);
      CHECK(daxfs_unlease(fd.get(), lease) == 0);
    }
  }
}

TEST_CASE_METHOD(Leased, "break: a child through a descriptor of its own is somebody else") {
  REQUIRE(switch_policy(*this, "break,break_timeout=10m") == 0);
  take();
  Attempt punching([this] { return punch_blocks(file, 0, kBlocks); });
  REQUIRE(waiting_becomes(*this, 1));
  CHECK(told(punching.pid()) == DAXFS_EVENT_BREAK);
  CHECK(daxfs_unlease(fd.get(), lease) == 0);
  CHECK(punching.finish() == 0);
}
