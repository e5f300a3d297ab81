// Nothing ever sticks: whoever dies, stops, closes, unmounts or is interrupted while requests wait
// at the gate. Every wait here has a limit, and every child is reaped.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "tests/mount/gate_helpers.h"
#include "tests/unit/catch.h"

using namespace daxfs::test;

namespace {

constexpr std::size_t kBlocks = 8;
const std::array<std::string, 2> kWaiting{"pin_policy=wait", "pin_policy=break,break_timeout=10m"};

struct Waiters : Mount {
  Waiters() {
    write_file(file, pattern(kBlocks * kBlock, 1));
    write_file(source, pattern(kBlock, 2));
  }
  std::unique_ptr<Holder> hold(std::uint64_t first = 0, std::uint64_t count = kBlocks) const {
    auto holder = std::make_unique<Holder>(
        [&] { return pin_and_keep(file, first * kBlock, count * kBlock); });
    REQUIRE(holder->result() == 0);
    return holder;
  }
  // Every way to be in somebody's way.
  std::unique_ptr<Attempt> detach(std::size_t kind) const {
    return std::make_unique<Attempt>([this, kind] {
      interruptible();
      switch (kind % kKinds) {
        case 0:
          return shrink(file, 0);
        case 1:
          return punch_blocks(file, 0, kBlocks);
        case 2:
          return error_of(rename(source.c_str(), file.c_str()));
        default:
          return error_of(open(file.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
      }
    });
  }
  // SIGUSR1 interrupts a system call and does nothing else.
  static void interruptible() {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    sigaction(SIGUSR1, &action, nullptr);
  }
  static constexpr std::size_t kKinds = 4;
  const std::string file = path("f");
  const std::string source = path("source");
};

}  // namespace

TEST_CASE_METHOD(Waiters,
                 "a holder that dies, is stopped and dies, or closes, lets the waiter go") {
  for (const std::string& policy : kWaiting) {
    REQUIRE(switch_policy(*this, policy) == 0);
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      for (const bool stopped : {false, true}) {
        INFO(policy << ", detach " << kind << ", stopped: " << stopped);
        write_file(file, pattern(kBlocks * kBlock, 1));
        write_file(source, pattern(kBlock, 2));
        const auto holder = hold();
        const auto waiter = detach(kind);
        REQUIRE(waiting_becomes(*this, 1));
        if (stopped) {
          holder->signal(SIGSTOP);
          CHECK(waiter->running());
          CHECK(live_status(*this)["waiting"] == 1);
        }
        holder->die();
        CHECK(waiter->finish() == 0);
        CHECK(waiting_becomes(*this, 0));
      }
    }
    write_file(file, pattern(kBlocks * kBlock, 1));
    daxfs::UniqueFd fd = open_file(file, O_RDONLY);
    std::uint64_t pin = 0;
    REQUIRE(daxfs_pin(fd.get(), 0, kBlock, 0, &pin) == 0);
    const auto waiter = detach(0);
    REQUIRE(waiting_becomes(*this, 1));
    fd = {};
    CHECK(waiter->finish() == 0);
  }
}

TEST_CASE_METHOD(Waiters, "a waiter that is killed or interrupted has changed nothing") {
  const auto holder = hold(3, 1);
  for (const std::string& policy : kWaiting) {
    REQUIRE(switch_policy(*this, policy) == 0);
    const Snapshot before(file);
    const Snapshot source_before(source);
    const std::uint64_t free_before = live_status(*this)["free"];
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      for (const int number : {SIGKILL, SIGTERM, SIGUSR1}) {
        INFO(policy << ", detach " << kind << ", signal " << number);
        next_tick();
        const auto waiter = detach(kind);
        REQUIRE(waiting_becomes(*this, 1));
        waiter->signal(number);
        CHECK(waiter->finish() == (number == SIGUSR1 ? EINTR : -number));
        CHECK(waiting_becomes(*this, 0));
        CHECK(Snapshot(file) == before);
        CHECK(Snapshot(source) == source_before);
        CHECK(live_status(*this)["free"] == free_before);
      }
    }
  }
}

TEST_CASE_METHOD(Waiters, "a waiter that repeats what its timer interrupts reaches its deadline") {
  const auto holder = hold();
  for (const std::string policy :
       {"pin_policy=wait,wait_timeout=1s", "pin_policy=break,break_timeout=1s"}) {
    INFO(policy);
    REQUIRE(switch_policy(*this, policy) == 0);
    Attempt waiter([this] {
      struct sigaction action {};
      action.sa_handler = [](int) {};
      sigaction(SIGALRM, &action, nullptr);
      constexpr timeval kTick{.tv_sec = 0, .tv_usec = 200'000};
      const itimerval timer{.it_interval = kTick, .it_value = kTick};
      setitimer(ITIMER_REAL, &timer, nullptr);
      int ticks = 0;
      int error = EINTR;
      for (; error == EINTR && ticks < 50; ++ticks) error = shrink(file, 0);
      return ticks > 1 ? error : EPROTO;  // it was interrupted at least once
    });
    CHECK(waiter.finish() == ETXTBSY);
  }
}

TEST_CASE_METHOD(Waiters, "a pin that waits behind a fence can be killed and interrupted") {
  REQUIRE(switch_policy(*this, "wait") == 0);
  auto holder = hold(0, 1);
  const auto waiter = detach(1);
  REQUIRE(waiting_becomes(*this, 1));
  for (const int number : {SIGKILL, SIGUSR1}) {
    Attempt pinning([this] {
      interruptible();
      return pin_and_keep(file, kBlock, kBlock);
    });
    REQUIRE(waiting_becomes(*this, 2));
    pinning.signal(number);
    CHECK(pinning.finish() == (number == SIGUSR1 ? EINTR : -number));
    CHECK(waiting_becomes(*this, 1));
  }
  // One that stays gets what is left of the file: a hole.
  Attempt pinning([this] { return pin_and_keep(file, kBlock, kBlock); });
  REQUIRE(waiting_becomes(*this, 2));
  holder.reset();
  CHECK(waiter->finish() == 0);
  CHECK(pinning.finish() == ENXIO);
}

TEST_CASE_METHOD(Waiters, "unmounting, in every way, while requests wait") {
  struct Way {
    const char* name;
    std::function<void(Mount&)> act;
    bool waiter_fails;
    bool daemon_dies;
  };
  const std::array<Way, 4> ways{{
      {"umount -l", [](Mount& m) { REQUIRE(umount2(m.path().c_str(), MNT_DETACH) == 0); }, false,
       false},
      {"umount -f", [](Mount& m) { umount2(m.path().c_str(), MNT_FORCE); }, true, false},
      {"SIGTERM", [](Mount& m) { REQUIRE(::kill(m.daemon(), SIGTERM) == 0); }, true, false},
      {"SIGKILL", [](Mount& m) { REQUIRE(::kill(m.daemon(), SIGKILL) == 0); }, true, true},
  }};
  for (const std::string& policy : kWaiting) {
    for (const Way& way : ways) {
      INFO(way.name << ", " << policy);
      unmount();
      mount(policy);
      const Snapshot before(file);
      auto holder = hold();
      const auto punching = detach(1);
      REQUIRE(waiting_becomes(*this, 1));
      Attempt pinning([this] { return pin_and_keep(file, 0, kBlock); });
      REQUIRE(waiting_becomes(*this, 2));
      way.act(*this);
      if (way.waiter_fails) {
        CHECK(punching->finish() != 0);
        CHECK(pinning.finish() != 0);
      } else {
        CHECK(punching->running());
        // Now, only the descriptors keep it alive.
        holder.reset();
        CHECK(punching->finish() == 0);
        CHECK(pinning.finish() == ENXIO);
      }
      const Finished ended = daemon_ends();
      INFO(ended.out << ended.err);
      CHECK_FALSE(ended.timed_out);
      CHECK(ended.code == (way.daemon_dies ? 128 + SIGKILL : 0));
      mount(policy);
      if (way.waiter_fails) {
        CHECK(Snapshot(file) == before);
        CHECK(live_status(*this)["pins"]["long"] == 1);  // the holder lives on
      } else {
        CHECK(status_of(file).st_blocks == 0);
      }
      holder.reset();
      CHECK(eventually([&] { return live_status(*this)["pins"]["long"] == 0; }));
      CHECK(Attempt([this] { return punch_blocks(file, 0, 1); }).finish() == 0);
      REQUIRE(unlink(file.c_str()) == 0);
      write_file(file, pattern(kBlocks * kBlock, 1));
    }
  }
}

TEST_CASE_METHOD(Waiters, "while a truncate waits, all other work goes on, on the same file too") {
  for (const std::string& policy : kWaiting) {
    INFO(policy);
    REQUIRE(switch_policy(*this, policy) == 0);
    write_file(file, pattern(kBlocks * kBlock, 1));
    const auto holder = hold(0, 1);
    const daxfs::UniqueFd fd = open_file(file, O_RDWR);
    std::uint64_t pin = 0;
    REQUIRE(daxfs_pin(fd.get(), kBlock, kBlock, DAXFS_PIN_WRITE, &pin) == 0);
    const auto waiter = detach(0);
    REQUIRE(waiting_becomes(*this, 1));
    Attempt other_work([this] {
      const std::string expected = pattern(kBlocks * kBlock, 1);
      std::string seen(expected.size(), '\0');
      const daxfs::UniqueFd reader(open(file.c_str(), O_RDONLY | O_CLOEXEC));
      if (read(reader.get(), seen.data(), seen.size()) != ssize_t(seen.size())) return 101;
      if (seen != expected) return 102;
      if (pread(reader.get(), seen.data(), kBlock, 3 * kBlock) != ssize_t(kBlock)) return 103;
      struct stat status {};
      if (fstat(reader.get(), &status) != 0 || status.st_size != off_t(expected.size())) return 104;
      const daxfs::UniqueFd mapped(open(file.c_str(), O_RDONLY | O_CLOEXEC));
      // The file is pinned for writing: this handle bypasses the page cache.
      void* view = mmap(nullptr, seen.size(), PROT_READ, MAP_SHARED, mapped.get(), 0);
      if ((view == MAP_FAILED ? errno : 0) != shared_mapping_of_direct_handle()) return 105;
      if (view != MAP_FAILED) {
        if (std::memcmp(view, expected.data(), expected.size()) != 0) return 106;
        munmap(view, seen.size());
      }
      const daxfs::UniqueFd other(open(path("other").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
      if (pwrite(other.get(), seen.data(), seen.size(), 0) != ssize_t(seen.size())) return 107;
      if (fsync(other.get()) != 0 || ftruncate(other.get(), 0) != 0) return 108;
      if (unlink(path("other").c_str()) != 0) return 109;
      return 0;
    });
    CHECK(other_work.finish(Seconds(20)) == 0);
    std::uint64_t second = 0;
    CHECK(error_of(daxfs_pin(fd.get(), 0, kBlock, DAXFS_PIN_NOWAIT, &second)) == EAGAIN);
    CHECK(daxfs_unpin(fd.get(), pin) == 0);
    CHECK(waiter->running());
    CHECK(live_status(*this)["waiting"] == 1);
    holder->die();
    CHECK(waiter->finish() == 0);
    CHECK(status_of(file).st_size == 0);
  }
}

TEST_CASE_METHOD(Waiters,
                 "a descriptor that was inherited or sent keeps the pin until it is closed") {
  SECTION("inherited") {
    daxfs::UniqueFd fd = open_file(file, O_RDONLY);
    std::uint64_t pin = 0;
    REQUIRE(daxfs_pin(fd.get(), 0, kBlock, 0, &pin) == 0);
    ReadyChild heir([] { return 0; });
    fd = {};
    CHECK(Attempt([this] { return shrink(file, 0); }).finish() == ETXTBSY);
    heir.kill();
  }
  SECTION("sent") {
    int ends[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
    const daxfs::UniqueFd mine(ends[0]);
    const daxfs::UniqueFd theirs(ends[1]);
    alignas(cmsghdr) char room[CMSG_SPACE(sizeof(int))] = {};
    char byte = 0;
    iovec data{&byte, 1};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = room;
    message.msg_controllen = sizeof room;
    ReadyChild sender([&] {
      const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
      std::uint64_t pin = 0;
      if (daxfs_pin(fd, 0, kBlock, 0, &pin) != 0) return errno;
      cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof fd);
      std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
      return sendmsg(theirs.get(), &message, 0) == 1 ? 0 : errno;
    });
    REQUIRE(sender.result() == 0);
    sender.kill();
    CHECK(Attempt([this] { return shrink(file, 0); }).finish() == ETXTBSY);
    REQUIRE(recvmsg(mine.get(), &message, MSG_CMSG_CLOEXEC) == 1);
    int received = -1;
    std::memcpy(&received, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof received);
    daxfs::UniqueFd fd(received);
    CHECK(Attempt([this] { return shrink(file, 0); }).finish() == ETXTBSY);
    CHECK(live_status(*this)["pins"]["long"] == 1);
  }
  CHECK(eventually([&] { return live_status(*this)["pins"]["long"] == 0; }));
  CHECK(Attempt([this] { return shrink(file, 0); }).finish() == 0);
}

TEST_CASE_METHOD(Waiters, "a survivor of a crash that dies counts as dead before it is reaped") {
  const std::uint64_t before = live_status(*this)["free"];
  const auto holder = hold(2, 3);
  kill_daemon();
  mount("pin_policy=defer");
  CHECK(Attempt([this] { return shrink(file, 0); }).finish() == 0);
  CHECK(space_settles(*this, before + 5 * kBlock, 3 * kBlock));
  holder->die();  // a zombie until the end of this test
  CHECK(space_settles(*this, before + kBlocks * kBlock, 0));
  CHECK(live_list(*this, DAXFS_QUERY_PINS).empty());
}

TEST_CASE_METHOD(Waiters, "holders that overlap without a gap do not starve a waiter") {
  for (const std::string& policy : kWaiting) {
    INFO(policy);
    REQUIRE(switch_policy(*this, policy) == 0);
    write_file(file, pattern(kBlocks * kBlock, 1));
    // Takes the next pin before it gives up the last one, until it is told EAGAIN; then it queues.
    Attempt relay([this] {
      const int fd = open(file.c_str(), O_RDWR | O_CLOEXEC);
      std::uint64_t last = 0;
      std::uint64_t next = 0;
      if (daxfs_pin(fd, 0, kBlock, 0, &last) != 0) return errno;
      for (;;) {
        usleep(500);
        const int error = error_of(daxfs_pin(fd, 0, kBlock, DAXFS_PIN_NOWAIT, &next));
        if (daxfs_unpin(fd, last) != 0) return errno;
        last = next;
        if (error == EAGAIN) break;
        if (error != 0) return error;
      }
      return error_of(daxfs_pin(fd, 0, kBlock, DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE, &next));
    });
    CHECK(eventually([&] { return live_status(*this)["pins"]["long"] != 0; }));
    CHECK(detach(0)->finish() == 0);
    CHECK(relay.finish() == 0);
  }
}
