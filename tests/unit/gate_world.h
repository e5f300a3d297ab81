// Files, an allocator, and holders with their devices around one gate, for many threads at once.
// The files' locks are held as the filesystem holds them. What must never be seen is counted while
// the threads run; between two rounds, when they have gone, everything is compared.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <shared_mutex>
#include <span>
#include <string>
#include <vector>

#include "lease/gate.h"

namespace daxfs::test {

class GateWorld {
 public:
  GateWorld();
  ~GateWorld() { gate_.stop(); }
  GateWorld(const GateWorld&) = delete;
  GateWorld& operator=(const GateWorld&) = delete;

  // What one of the threads does.
  void work(unsigned seed, int steps);

  // The following are for when no thread works.
  // Nothing is ready any more: who still has an open request waits, and has a reason to.
  void check_at_rest();
  // Everybody is judged anew: in order of arrival.
  void check_order();
  // All holders are closed: every request is answered, and nothing is left.
  void finish();

  // What was seen and must not be; none of it, and no more.
  std::vector<std::string> complaints();
  struct Seen {
    std::atomic<int> parked = 0, detached = 0, pinned = 0, leased = 0, broken = 0, revoked = 0;
  };
  const Seen& seen() const { return seen_; }

 private:
  static constexpr std::size_t kFiles = 3;
  static constexpr std::size_t kFileBlocks = 24;
  static constexpr std::size_t kPoolBlocks = 96;
  static constexpr std::size_t kHolders = 6;

  enum class Owner { free, file, nobody };
  enum class What { detach, pin, lease };
  struct File {
    std::shared_mutex mutex;
    std::array<std::optional<std::size_t>, kFileBlocks> map;
    std::optional<PinPolicy> policy;
  };
  struct Range {
    std::size_t file, first, count;
    bool overlaps(const Range& other) const {
      return file == other.file && first < other.first + other.count && other.first < first + count;
    }
    FileRange blocks() const { return {FileBlock(first), BlockCount(count)}; }
    FileOffset offset() const { return offset_of(FileBlock(first)); }
    ByteCount length() const { return bytes(BlockCount(count)); }
  };
  struct Pin {
    std::vector<PoolRange> blocks;
    pid_t process;
  };
  struct Lease {
    Range range;
    pid_t process;
    bool exclusive;
  };
  // An open file description. Requests of it hold `mutex` shared, its closing exclusively.
  struct Holder {
    HolderId id;
    std::shared_mutex mutex;
    bool closed = false;
    std::mutex table;  // protects the next two
    std::map<PinId, Pin> pins;
    std::map<LeaseId, Lease> leases;  // some may have been revoked, which the news will say
  };
  using HolderRef = std::shared_ptr<Holder>;
  struct Request {
    int number;  // in order of arrival
    What what;
    Range range;
    pid_t process;
    HolderRef holder;  // of a detach: through which it is asked, or null
    PinKind kind;
    bool nowait;
    bool exclusive;
    TicketRef ticket;
  };
  using RequestRef = std::shared_ptr<Request>;

  // The gate's callback.
  void give_back(std::span<const PoolRange> ranges);

  // Steps.
  void write(std::size_t number, std::size_t first);
  RequestRef begin(std::mt19937& random);
  void attempt(const RequestRef& request);
  bool detach(const Request& request);
  bool pin(const Request& request);
  bool lease(const Request& request);
  void unpin_one(std::size_t slot);
  void read_news(std::size_t slot, bool give_way);
  void close(std::size_t slot);
  void switch_options(std::mt19937& random);
  void settle();

  HolderRef holder(std::size_t slot);
  static std::vector<PoolRange> ranges(const File& file, const Range& range);
  // Fences over the range that are older than the request, by number.
  std::set<int> fences_before(const Request& request);
  // Exclusive leases over the range, except those of the holder.
  std::set<LeaseId> exclusive_over(const Range& range, const Holder* except);
  template <class Numbers>
  void none_stayed(const char* what, const Numbers& before, const Numbers& after);
  void complain(const std::string& what);
  bool has_reason(const Request& request);

  // Lock order: holder, its table, file, gate; the mutexes below come last.
  std::array<File, kFiles> files_;
  std::mutex slots_mutex_;
  std::array<HolderRef, kHolders> slots_;

  std::mutex pool_mutex_;  // protects the next two
  std::array<Owner, kPoolBlocks> owner_{};
  std::vector<std::size_t> free_;
  // Which blocks a device would still be writing to.
  std::array<std::atomic<int>, kPoolBlocks> held_{};

  std::mutex open_mutex_;  // protects the next five
  int last_number_ = 0;
  std::map<int, RequestRef> open_;
  std::map<int, Range> fences_;
  std::map<LeaseId, std::pair<Lease, const Holder*>> exclusive_;
  std::vector<int> attempts_;  // all attempts, by number

  std::mutex complaints_mutex_;
  std::vector<std::string> complaints_;

  Seen seen_;
  // The clock is ahead of the real one, and moves when a thread says so.
  const std::chrono::steady_clock::time_point start_ =
      std::chrono::steady_clock::now() + std::chrono::hours(1000);
  std::atomic<std::int64_t> elapsed_ms_ = 0;
  Gate gate_;
};

}  // namespace daxfs::test
