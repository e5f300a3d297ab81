// The doorbell, step by step, and with real processes: stopped, killed, and executing another
// program in the middle of a copy.
#include "client/doorbell.h"

#include <sys/mman.h>
#include <unistd.h>

#include <memory>
#include <new>

#include "base/process_identity.h"
#include "src/doorbells.h"
#include "tests/unit/catch.h"
#include "tests/unit/child_process.h"

using namespace daxfs;
using daxfs::doorbell::Attachment;
using daxfs::doorbell::Page;
using daxfs::doorbell::Slot;
using daxfs::test::Child;
using daxfs::test::say_ready;

namespace {

// A page that children share.
class SharedPage {
 public:
  SharedPage()
      : page_(::mmap(nullptr, sizeof(Page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                     0)) {
    REQUIRE(page_ != MAP_FAILED);
  }
  ~SharedPage() { ::munmap(page_, sizeof(Page)); }
  SharedPage(const SharedPage&) = delete;
  SharedPage& operator=(const SharedPage&) = delete;
  Page& operator*() const { return *static_cast<Page*>(page_); }

 private:
  void* page_;
};

AttachedProcess attached(pid_t process) {
  return {*identify_process(process, ::getuid()), mark_process(process)};
}

AttachedProcess self() { return attached(::getpid()); }

std::uint64_t count_of(const Slot& slot) { return slot.count.load(std::memory_order_seq_cst); }

}  // namespace

TEST_CASE(
    "doorbell: a copy keeps the file closed but not quiet, and none begins while it is closed") {
  SharedPage page;
  Doorbells doorbells;
  doorbells.add(*page);
  const auto attachment = doorbells.attach(*page, self());
  REQUIRE(attachment);
  Slot* const slot = doorbell::claim(*page, *attachment);
  REQUIRE(slot != nullptr);
  const auto epoch = doorbells.epoch();
  REQUIRE(epoch);
  CHECK(doorbell::is_open(*epoch));
  {
    const doorbell::Copy copy(*page, *slot, *epoch);
    REQUIRE(copy);
    // As a signal handler does.
    CHECK(doorbell::Copy(*page, *slot, *epoch));
    doorbells.close();
    CHECK_FALSE(doorbells.quiet());
    CHECK_FALSE(doorbells.epoch());
    const auto copies = doorbells.in_flight();
    REQUIRE(copies.size() == 1);
    CHECK(copies[0].process.owner.process == ::getpid());
    CHECK(copies[0].attachment == *attachment);
    CHECK_FALSE(doorbells.have_ended(copies[0]));
    CHECK_FALSE(doorbell::Copy(*page, *slot, *epoch));
    CHECK(count_of(*slot) == 1);
  }
  CHECK(doorbells.quiet());
  CHECK(doorbells.in_flight().empty());
  doorbells.open();
  // What the client knew is of the past, even if nothing has changed.
  CHECK_FALSE(doorbell::take(*page, *slot, *epoch));
  REQUIRE(doorbells.epoch());
  CHECK(*doorbells.epoch() > *epoch);
  CHECK(doorbell::Copy(*page, *slot, *doorbells.epoch()));
}

TEST_CASE(
    "doorbell: it opens when the last detach opens it, and a new doorbell is closed until then") {
  SharedPage first, second;
  Doorbells doorbells;
  doorbells.add(*first);
  const std::uint64_t epoch = *doorbells.epoch();
  doorbells.close();
  doorbells.close();
  doorbells.add(*second);
  doorbells.open();
  CHECK_FALSE(doorbells.epoch());
  for (Page* page : {&*first, &*second})
    CHECK_FALSE(doorbell::is_open(page->epoch.load(std::memory_order_seq_cst)));
  doorbells.open();
  REQUIRE(doorbells.epoch());
  CHECK(*doorbells.epoch() == epoch + 2);
  for (Page* page : {&*first, &*second})
    CHECK(page->epoch.load(std::memory_order_seq_cst) == epoch + 2);
}

TEST_CASE("doorbell: slots are one thread's each, shared where there are no more, and come back") {
  SharedPage page;
  Doorbells doorbells;
  doorbells.add(*page);
  const Attachment one = *doorbells.attach(*page, self());
  const Attachment other = *doorbells.attach(*page, self());
  CHECK(one != other);
  CHECK(doorbell::find(*page, other) == nullptr);
  std::vector<Slot*> slots;
  for (std::size_t i = 0; i + 1 < doorbell::kSlots; ++i) {
    slots.push_back(doorbell::claim(*page, one));
    REQUIRE(slots.back() != nullptr);
  }
  Slot* const last = doorbell::claim(*page, other);
  REQUIRE(last != nullptr);
  CHECK(doorbell::claim(*page, one) == nullptr);
  CHECK(doorbell::claim(*page, other) == nullptr);
  CHECK(doorbell::find(*page, other) == last);
  doorbell::release(*slots[7], other);  // not its own: nothing happens
  CHECK(doorbell::claim(*page, one) == nullptr);
  doorbell::release(*slots[7], one);
  CHECK(doorbell::claim(*page, other) == slots[7]);
}

TEST_CASE("doorbell: a page that clients have scribbled over holds up nobody for ever") {
  SharedPage page;
  Doorbells doorbells;
  doorbells.add(*page);
  const Attachment attachment = *doorbells.attach(*page, self());
  // Counts where nobody is, owners that nobody knows, more slots than there are, another epoch.
  (*page).used.store(~0ull, std::memory_order_seq_cst);
  (*page).slots[3].count.store(5, std::memory_order_seq_cst);
  (*page).slots[4].count.store(~0ull, std::memory_order_seq_cst);
  (*page).slots[4].owner.store(4711, std::memory_order_seq_cst);
  (*page).epoch.store(12, std::memory_order_seq_cst);
  doorbells.close();
  CHECK_FALSE(doorbell::is_open((*page).epoch.load(std::memory_order_seq_cst)));
  CHECK_FALSE(doorbells.quiet());
  CHECK(doorbells.in_flight().empty());
  doorbells.open();
  CHECK(*doorbells.epoch() == (*page).epoch.load(std::memory_order_seq_cst));
  // A count of its own that is never given back is a copy that never ends.
  Slot* const slot = doorbell::claim(*page, attachment);
  REQUIRE(doorbell::take(*page, *slot, *doorbells.epoch()));
  doorbells.close();
  CHECK(doorbells.in_flight().size() == 1);
}

TEST_CASE("doorbell: unknown and former doorbells are refused") {
  SharedPage page, other;
  Doorbells doorbells;
  CHECK(doorbells.attach(*page, self()).error().code == ENOENT);
  doorbells.add_former(*page, {});
  CHECK(doorbells.attach(*page, self()).error().code == ESTALE);
  CHECK((*page).epoch.load(std::memory_order_seq_cst) == doorbell::kClosedForGood);
  doorbells.close();
  doorbells.open();
  CHECK((*page).epoch.load(std::memory_order_seq_cst) == doorbell::kClosedForGood);
  doorbells.remove(*page);
  CHECK(doorbells.attach(*page, self()).error().code == ENOENT);
}

TEST_CASE(
    "doorbell: a process that is stopped in a copy is waited for, one that was killed is not") {
  SharedPage page;
  Doorbells doorbells;
  doorbells.add(*page);
  const std::uint64_t epoch = *doorbells.epoch();
  Child child([&](int fd) {
    Slot* const slot = doorbell::claim(*page, Attachment{1});
    if (slot == nullptr || !doorbell::take(*page, *slot, epoch)) ::_exit(1);
    say_ready(fd);
    ::raise(SIGSTOP);
    doorbell::give_back(*slot);
    say_ready(fd);
    for (;;) ::pause();
  });
  REQUIRE(*doorbells.attach(*page, attached(child.pid())) == Attachment{1});
  siginfo_t info;
  REQUIRE(::waitid(P_PID, static_cast<id_t>(child.pid()), &info, WSTOPPED) == 0);
  doorbells.close();
  CHECK_FALSE(doorbells.quiet());
  const auto copies = doorbells.in_flight();
  REQUIRE(copies.size() == 1);
  CHECK(copies[0].process.owner.process == child.pid());
  CHECK_FALSE(doorbells.have_ended(copies[0]));
  Slot* const slot = doorbell::find(*page, Attachment{1});
  REQUIRE(slot != nullptr);

  SECTION("it goes on") {
    REQUIRE(::kill(child.pid(), SIGCONT) == 0);
    while (!doorbells.quiet()) ::sched_yield();
    CHECK(doorbells.have_ended(copies[0]));
    CHECK(doorbells.in_flight().empty());
    CHECK(doorbell::find(*page, Attachment{1}) == slot);  // it lives, and keeps its slot
    doorbells.sweep();
    CHECK(doorbell::find(*page, Attachment{1}) == slot);
    child.end();
    doorbells.sweep();
    CHECK(doorbell::find(*page, Attachment{1}) == nullptr);
  }
  SECTION("it is killed, and nobody has waited for it") {
    child.end();
    CHECK(doorbells.in_flight().empty());
    CHECK(doorbells.quiet());
    CHECK(count_of(*slot) == 0);
    CHECK(doorbell::claim(*page, Attachment{2}) == slot);
    CHECK(doorbells.have_ended(copies[0]));
  }
  SECTION("it is killed, and a detach that went to limbo looks") {
    child.end();
    CHECK(doorbells.have_ended(copies[0]));
    CHECK(doorbells.quiet());
  }
  SECTION("the daemon dies, and the next one learns of it from the records") {
    Doorbells next;
    // Its marks are not recorded.
    const AttachedProcess recorded{copies[0].process.owner, {}};
    next.add_former(*page, {{Attachment{1}, recorded}});
    next.close();
    REQUIRE(next.in_flight().size() == 1);
    CHECK(next.in_flight()[0].process.owner == copies[0].process.owner);
    child.end();
    CHECK(next.in_flight().empty());
    CHECK(next.quiet());
  }
}

TEST_CASE("doorbell: copies of a process that has become another program have ended") {
  SharedPage page;
  Doorbells doorbells;
  doorbells.add(*page);
  const std::uint64_t epoch = *doorbells.epoch();
  int go[2];
  REQUIRE(::pipe(go) == 0);
  Child child([&](int fd) {
    Slot* const slot = doorbell::claim(*page, Attachment{1});
    if (slot == nullptr || !doorbell::take(*page, *slot, epoch)) ::_exit(1);
    say_ready(fd);
    char byte;
    if (::read(go[0], &byte, 1) == 1) ::execlp("sleep", "sleep", "1000", nullptr);
    ::_exit(1);
  });
  const AttachedProcess process = attached(child.pid());
  REQUIRE(process.mark.image != 0);
  REQUIRE(*doorbells.attach(*page, process) == Attachment{1});
  doorbells.close();
  CHECK(doorbells.in_flight().size() == 1);
  CHECK_FALSE(has_ended(process));
  REQUIRE(::write(go[1], "g", 1) == 1);
  while (!doorbells.in_flight().empty()) ::sched_yield();
  CHECK(is_alive(process.owner));
  CHECK(has_ended(process));
  CHECK(doorbells.quiet());
  ::close(go[0]);
  ::close(go[1]);
}

TEST_CASE("doorbell: another process with the same number is not its former owner") {
  AttachedProcess process = self();
  CHECK_FALSE(has_ended(process));
  --process.owner.start_time;
  CHECK(has_ended(process));
  // Who cannot be seen lives.
  CHECK_FALSE(has_ended({describe_holder(0, 77), {}}));
}
