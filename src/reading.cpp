#include "src/reading.h"

#include <algorithm>
#include <array>
#include <shared_mutex>
#include <vector>

namespace daxfs {
namespace {

// What holes and unwritten extents read as. Never written to: the kernel backs it with its zero
// page.
constexpr std::size_t kZeroBytes = 1 << 20;
alignas(4096) const std::array<std::byte, kZeroBytes> kZeroes{};

// What is sent, in order. Most reads have one piece, so a few need no memory.
class Pieces {
 public:
  static constexpr std::size_t kMost = 1000;  // below IOV_MAX, with room for the reply's header

  void add(const std::byte* at, std::size_t length) {
    // iovec has no const variant; writev only reads.
    const iovec piece{const_cast<std::byte*>(at), length};
    if (count_ < few_.size()) {
      few_[count_] = piece;
    } else {
      if (many_.empty()) many_.assign(few_.begin(), few_.end());
      many_.push_back(piece);
    }
    ++count_;
  }
  bool full() const { return count_ == kMost; }
  std::span<const iovec> all() const {
    return many_.empty() ? std::span(few_.data(), count_) : std::span<const iovec>(many_);
  }

 private:
  std::array<iovec, 4> few_;
  std::vector<iovec> many_;
  std::size_t count_ = 0;
};

}  // namespace

std::vector<FileRange> Reading::pinned(const Inode& inode, FileRange blocks) const {
  std::vector<FileRange> found;
  if (inode.write_pins == 0) return found;
  inode.map().for_each(blocks, [&](const Extent& extent) {
    if (extent.unwritten) return;
    gate_.counts({extent.pool, extent.count}, [&](PoolRange part, PinCounts) {
      found.push_back({extent.file + (part.start - extent.pool), part.count});
    });
  });
  return found;
}

void Reading::note_unreadable(const Inode& inode, FileOffset offset, ByteCount length) {
  health_.note_unreadable([&] { return inodes_.path_of(inode.number); }, offset, length);
}

bool Reading::may_lack(OpenFile& file, FileOffset offset, ByteCount length) const {
  Inode& inode = *file.inode;
  if (!pages_.keeps_writes() || inode.cached_writers == 0) return false;
  const ReaderLock guard(inode.lock);
  return offset.value + length.value > inode.record.size;
}

Status Reading::read(OpenFile& file, FileOffset offset, ByteCount length, const Send& send,
                     bool pages) {
  // A kernel that keeps writes reads the rest of a page through any descriptor.
  if (!file.readable && !(pages && pages_.keeps_writes())) return fail(EBADF);
  // The guard below outlives the reply, and so must what it locks.
  const OpenFileRef kept = file.shared_from_this();
  Inode& inode = *file.inode;
  if (!inode.is_regular()) return fail(EINVAL);
  if (const Status loaded = inodes_.load_extents(inode); !loaded) return loaded;
  // Where the kernel keeps writes, O_DIRECT is a matter of the single request.
  pages = pages || (!file.direct && !pages_.keeps_writes());
  if (pages) KernelPages::note_cached(inode);

  const ReaderLock guard(inode.lock);
  const std::uint64_t size = inode.record.size;
  if (offset.value >= size || length.value == 0) {
    send({});
    return {};
  }
  inodes_.update_atime(inode);
  const std::uint64_t end = std::min(size, offset.value + std::min(length.value, size));
  Pieces pieces;
  std::uint64_t at = offset.value;
  while (at < end && !pieces.full()) {
    const FileRange wanted = covering(FileOffset(at), ByteCount(end - at));
    const auto run = inode.map().run_at(wanted.start, wanted.count);
    std::uint64_t here = std::min(end, offset_of(run.range.end()).value) - at;
    if (run.pool && !run.unwritten) {
      const PoolOffset from =
          offset_of(*run.pool) + ByteCount(at - offset_of(run.range.start).value);
      if (mount_.volume.medium().lost(from, ByteCount(here))) {
        note_unreadable(inode, FileOffset(at), ByteCount(here));
        return fail(EIO);
      }
      pieces.add(mount_.volume.medium().at(from), here);
    } else {
      here = std::min<std::uint64_t>(here, kZeroBytes);
      pieces.add(kZeroes.data(), here);
    }
    at += here;
  }
  const bool remembered = pages && (inode.write_pins != 0 || pages_.remembers_any());
  const bool sent =
      remembered ? pages_.send(inode, offset, pieces.all(),
                               pinned(inode, covering(offset, ByteCount(at - offset.value))), send)
                 : send(pieces.all());
  if (!sent) note_unreadable(inode, offset, ByteCount(end - offset.value));
  return {};
}

}  // namespace daxfs
