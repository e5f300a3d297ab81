// An executable specification of the gate: the contract, block by block, with sets and loops
// instead of intervals, indexes and threads. It owns the files and the free space as well, so that
// it knows of every block whose it is.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "lease/gate.h"

namespace daxfs::test {

class GateModel {
 public:
  using Block = std::uint64_t;
  enum class Owner { free, file, limbo };
  enum class Policy { refuse, defer, ignore, park };

  struct Pin {
    HolderId holder;
    pid_t process;
    PinKind kind;
    std::vector<Block> blocks;
  };
  struct Request {
    bool detach;
    std::size_t inode;
    std::uint64_t first, count;  // file blocks
    pid_t process;
    HolderId holder;
    PinKind kind;
    bool nowait;
    // How it stands.
    bool parked = false;
    bool fence = false;
    bool cancelled = false;
    Awaited awaited = Awaited::any;
    std::set<Block> in_the_way;
    int behind = -1;
  };
  struct Answer {
    int error = 0;  // 0: it went ahead, or is parked
    bool parked = false;
  };

  static constexpr std::size_t kFiles = 3;
  static constexpr std::uint64_t kFileBlocks = 16;
  static constexpr Block kPoolBlocks = 64;

  Policy policy = Policy::refuse;
  std::uint64_t limbo_limit = UINT64_MAX;
  std::vector<Owner> owner = std::vector<Owner>(kPoolBlocks, Owner::free);
  std::map<std::uint64_t, Block> files[kFiles];  // file block -> pool block
  std::map<PinId, Pin> pins;
  std::map<int, Request> requests;  // by arrival
  // What must have happened since the caller last cleared these.
  std::vector<Block> freed;
  std::vector<int> woken;

  std::vector<Block> blocks_of(const Request& r) const {
    std::vector<Block> result;
    for (const auto& [at, block] : files[r.inode]) {
      if (at >= r.first && at < r.first + r.count) result.push_back(block);
    }
    return result;
  }

  std::uint64_t in_limbo() const {
    return static_cast<std::uint64_t>(std::count(owner.begin(), owner.end(), Owner::limbo));
  }

  PinCounts counts(Block block) const {
    PinCounts result;
    for (const auto& [id, pin] : pins) {
      const auto n =
          static_cast<std::uint32_t>(std::count(pin.blocks.begin(), pin.blocks.end(), block));
      (pin.kind == PinKind::long_term ? result.long_term : result.short_term) += n;
    }
    return result;
  }

  Answer judge(int number) {
    Request& r = requests.at(number);
    if (r.cancelled) return {EINTR};
    const std::vector<Block> blocks = blocks_of(r);
    const std::set<Block> shorts = pinned(blocks, Awaited::short_term, std::nullopt);
    if (!shorts.empty()) return wait(r, blocks, Awaited::short_term);
    const std::set<Block> all = pinned(blocks, Awaited::any, std::nullopt);
    if (!all.empty()) {
      if (policy == Policy::refuse) return {ETXTBSY};
      if (policy == Policy::defer && in_limbo() + all.size() > limbo_limit) return {ETXTBSY};
      if (policy == Policy::park) return wait(r, blocks, Awaited::any);
    }
    for (const Block block : blocks) {
      const bool keep = policy != Policy::ignore && all.contains(block);
      owner[block] = keep ? Owner::limbo : Owner::free;
      if (!keep) freed.push_back(block);
    }
    std::erase_if(files[r.inode], [&](const auto& entry) {
      return entry.first >= r.first && entry.first < r.first + r.count;
    });
    return {};
  }

  // The caller adds the pin, as it knows the id.
  Answer pin(int number) {
    Request& r = requests.at(number);
    if (r.cancelled) return {EINTR};
    r.behind = -1;
    for (const auto& [arrival, other] : requests) {
      if (arrival < number && other.fence && other.inode == r.inode &&
          other.first < r.first + r.count && r.first < other.first + other.count) {
        r.behind = arrival;
      }
    }
    if (r.behind < 0) return {};
    if (r.nowait) return {EAGAIN};
    r.parked = true;
    return {.error = 0, .parked = true};
  }

  void end(int number) {
    requests.erase(number);
    for (auto& [arrival, r] : requests) {
      if (r.parked && !r.detach && r.behind == number) wake(arrival, r);
    }
  }
  void cancel(int number) {
    Request& r = requests.at(number);
    r.cancelled = true;
    if (r.parked) wake(number, r);
  }
  void wake_all() {
    for (auto& [arrival, r] : requests) {
      if (r.parked) wake(arrival, r);
    }
  }
  void unpin(PinId id) {
    const std::vector<Block> blocks = pins.at(id).blocks;
    pins.erase(id);
    for (const Block block : blocks) {
      if (owner[block] == Owner::limbo && counts(block).none()) {
        owner[block] = Owner::free;
        freed.push_back(block);
      }
    }
    for (auto& [arrival, r] : requests) {
      if (!r.parked || !r.detach) continue;
      const std::vector<Block> waits(r.in_the_way.begin(), r.in_the_way.end());
      if (pinned(waits, r.awaited, r.process).empty()) wake(arrival, r);
    }
  }

 private:
  // Those of the blocks that have awaited pins, of others than `except`.
  std::set<Block> pinned(const std::vector<Block>& blocks, Awaited awaited,
                         std::optional<pid_t> except) const {
    std::set<Block> result;
    for (const auto& [id, pin] : pins) {
      if (awaited == Awaited::short_term && pin.kind != PinKind::short_term) continue;
      if (except && *except != 0 && pin.process == *except) continue;
      for (const Block block : pin.blocks) {
        if (std::find(blocks.begin(), blocks.end(), block) != blocks.end()) result.insert(block);
      }
    }
    return result;
  }

  Answer wait(Request& r, const std::vector<Block>& blocks, Awaited awaited) {
    r.in_the_way = pinned(blocks, awaited, r.process);
    if (r.in_the_way.empty()) return {EDEADLK};
    r.awaited = awaited;
    r.parked = true;
    r.fence = true;
    return {.error = 0, .parked = true};
  }

  void wake(int arrival, Request& r) {
    r.parked = false;
    woken.push_back(arrival);
  }
};

}  // namespace daxfs::test
