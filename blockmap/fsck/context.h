// What the passes of a check share: the medium, what was found, and how a repair is made durable.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "blockmap/allocator.h"
#include "blockmap/format.h"
#include "blockmap/fsck/finding.h"
#include "blockmap/inode_table.h"
#include "blockmap/journal.h"
#include "blockmap/layout.h"
#include "blockmap/medium/medium.h"
#include "blockmap/volume/rebuild.h"

namespace daxfs::fsck {

// The blocks that hold pin records.
struct PinBlocks {
  std::uint64_t ready = 0;       // of the region, that are initialised
  std::vector<PoolBlock> chain;  // in the data area
};

class Context {
 public:
  Context(Medium& pool, const Options& asked, Report& said)
      : medium(pool), options(asked), report(said) {}

  // Enters findings of one object. Whether their repair is to be made now; then the caller does
  // so. All or none: the repair of an object is one plan.
  bool accept(const std::vector<Finding>& found);
  bool accept(Code code, Severity severity, std::string object, std::string text) {
    return accept({Finding{code, severity, std::move(object), std::move(text)}});
  }
  // Something was found that may not be repaired: later passes would build on sand.
  bool blocked() const { return blocked_; }
  // Whether the last round repaired anything (then there is another round).
  std::uint64_t repairs() const { return repairs_; }
  bool cancelled() const;
  void tell(std::string_view phase, std::uint64_t done, std::uint64_t total) {
    if (options.progress != nullptr) options.progress->advance(phase, done, total);
  }

  // Calls `visit(InodeNumber)` for each inode number, telling the progress; ends early when
  // cancelled.
  template <class Visit>
  void for_each_inode(std::string_view phase, const Visit& visit) {
    const std::uint64_t total = inodes->capacity();
    for (std::uint64_t n = 1; n <= total; ++n) {
      if (n % 1024 == 1) {
        if (cancelled()) return;
        tell(phase, n - 1, total);
      }
      visit(InodeNumber(n));
    }
    tell(phase, total, total);
  }

  PoolRange area() const { return data_area(super); }

  // A repair. Whether all of them are durable is asked once, when the check ends (fsck.cpp).
  void commit(const Transaction& tx) { static_cast<void>(journal->commit(tx)); }

  Medium& medium;
  const Options& options;
  Report& report;
  pmem::Superblock super{};  // from the superblock pass on
  // From the pass over the pool state on.
  std::unique_ptr<Journal> journal;
  std::unique_ptr<Allocator> allocator;
  std::unique_ptr<InodeTable> inodes;
  std::vector<PoolRange> index_runs;  // inode chunks and their index in the data area
  // From the pass over pin records on.
  PinBlocks pin_blocks;
  PinnedSpace pins;  // never free, whatever becomes of the files

 private:
  bool blocked_ = false;
  std::uint64_t repairs_ = 0;
};

// Small changes that are collected and committed in as few transactions as the lanes allow. Each
// change must be good on its own: a crash may fall between two transactions.
class Batch {
 public:
  explicit Batch(Context& context) : context_(context) {}
  ~Batch() { commit(); }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  void write(PoolOffset at, std::span<const std::byte> data) {
    if (tx_.size() + data.size() + 64 > context_.journal->capacity()) commit();
    tx_.write(at, data);
  }
  template <class T>
  void write_object(PoolOffset at, const T& object) {
    write(at, std::as_bytes(std::span(&object, 1)));
  }
  void commit() {
    if (tx_.empty()) return;
    context_.commit(tx_);
    tx_.clear();
  }

 private:
  Context& context_;
  Transaction tx_;
};

std::string name_of(InodeNumber inode);

}  // namespace daxfs::fsck
