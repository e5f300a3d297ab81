// Clients that copy by themselves, and detaches that take the blocks away from under them: threads
// over a handful of blocks in memory, whose contents say whose they are.
//
// The mistakes that a test can plant are here, beside the code under test, not in it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/fair_shared_mutex.h"
#include "client/doorbell.h"
#include "src/doorbells.h"

namespace daxfs::test {

// Each is one line that somebody could leave out or exchange.
struct Mistakes {
  bool no_recheck = false;              // the epoch is not looked at
  bool check_before_the_count = false;  // or too early
  bool give_back_early = false;         // before the copy has ended
  bool slot_is_shown_late = false;      // `used` is set after the first copy
  bool stopped_is_dead = false;         // a slot is reclaimed too early
  bool judged_by_the_number = false;    // or never: another process has the number now
  bool not_recorded = false;            // the next daemon does not know the doorbell
  bool limbo_is_not_recorded = false;   // or what a stopped client may still touch

  bool operator==(const Mistakes&) const = default;
};

class DoorbellWorld {
 public:
  DoorbellWorld(const Mistakes& mistakes, std::uint64_t seed);

  // Runs so many clients, and detaches until there were `detaches`, `most` seconds have passed, or
  // something has been complained of.
  void run(unsigned clients, std::uint64_t detaches, double most_seconds);
  // The first thing that went wrong; empty if nothing did.
  std::string complaint() const;

  struct Seen {
    std::atomic<std::uint64_t> copies = 0;    // made by clients themselves
    std::atomic<std::uint64_t> closed = 0;    // take() said no
    std::atomic<std::uint64_t> slow = 0;      // there was nothing to take
    std::atomic<std::uint64_t> detaches = 0;  // that went ahead
    std::atomic<std::uint64_t> waits = 0;     // that had to look again
    std::atomic<std::uint64_t> refused = 0;   // the time was up
    std::atomic<std::uint64_t> deferred = 0;
    std::atomic<std::uint64_t> deaths = 0;  // of clients, in the middle of copies
    std::atomic<std::uint64_t> stops = 0;
    std::atomic<std::uint64_t> mounts = 0;  // after deaths of the daemon
  };
  const Seen& seen() const { return seen_; }

 private:
  static constexpr std::size_t kBlocks = 8;
  static constexpr std::size_t kShare = 24;  // words of a block that one client has for itself
  static constexpr std::size_t kClients = 4;
  static constexpr std::uint64_t kFile = 0xf11e, kOther = 0x07e4;
  using Block = std::array<std::uint64_t, kShare * kClients>;
  using Random = std::minstd_rand;

  struct Client {
    unsigned number = 0;  // a process number
    std::uint64_t life = 0;
    Random random;
    doorbell::Page* page = nullptr;
    std::uint64_t daemon = 0;  // which one has made the page
    doorbell::Attachment attachment = doorbell::Attachment::none;
    doorbell::Slot* slot = nullptr;
    doorbell::Counting how = doorbell::Counting::shared;
    bool shown = false;
    std::uint64_t epoch = 0;
    std::size_t block = kBlocks;  // kBlocks: it knows of none
  };
  struct Limbo {
    std::size_t block = 0;
    std::vector<CopiesInFlight> copies;
  };
  // What lies on the medium of one doorbell.
  struct Recorded {
    std::unique_ptr<doorbell::Page> page;
    Doorbells::Attachments attached;
  };

  void client(unsigned number);
  void attach(Client& client);
  void ask(Client& client);
  bool take(Client& client);
  void copy(Client& client);
  void touch(Client& client);
  void look_at(const Block& block, unsigned client, const char* who);
  void stop_for_a_while();
  void die(Client& client);

  void detacher(std::uint64_t seed, std::uint64_t detaches);
  void detach(Random& random);
  bool looks_quiet();
  bool time_is_up(Random& random);
  void take_block(Random& random, const std::vector<CopiesInFlight>& copies);
  void look_at_limbo();
  void mount();
  void make_doorbell();
  bool has_ended(const AttachedProcess& process);
  void complain(const std::string& what);
  bool ends() const { return stop_.load(std::memory_order_relaxed); }

  const Mistakes mistakes_;
  const unsigned rare_;  // once in so many copies; where a mistake is to be found, more often
  std::mt19937_64 seeds_;
  Seen seen_;
  std::atomic<bool> stop_ = false;
  std::atomic<unsigned> at_work_ = 0;
  std::atomic<std::uint64_t> answers_ = 0;  // of detaches

  FairSharedMutex inode_lock_;  // protects what follows; blocks by what this is all about
  std::unique_ptr<Doorbells> doorbells_;
  std::uint64_t daemon_ = 0;
  std::vector<Recorded> recorded_;  // the last is the daemon's own
  std::size_t file_ = 0;            // its one block
  std::vector<std::size_t> others_;
  std::vector<Limbo> limbo_;  // as recorded
  std::array<Block, kBlocks> blocks_{};

  mutable std::mutex mutex_;  // protects the rest
  std::set<std::pair<unsigned, std::uint64_t>> dead_;
  std::string complaint_;
};

}  // namespace daxfs::test
