// Reading: the bytes are handed over where they lie in the pool. The inode's lock is held shared
// until they are sent, so a reply in flight is a short-term pin that every detach waits for.
#include <algorithm>
#include <array>
#include <shared_mutex>

#include "src/filesystem.h"

namespace daxfs {
namespace {

// What holes and unwritten extents read as. Never written to: the kernel backs it with its zero
// page.
constexpr std::size_t kZeroBytes = 1 << 20;
alignas(4096) const std::array<std::byte, kZeroBytes> kZeroes{};

}  // namespace

bool Filesystem::send_pages(Inode& inode, FileOffset offset, std::span<const iovec> pieces,
                            const Send& send) {
  std::size_t length = 0;
  for (const iovec& piece : pieces) length += piece.iov_len;
  const FileRange range = covering(offset, ByteCount(length));
  std::vector<FileRange> pinned;
  if (inode.write_pins != 0) {
    inode.extents->for_each(range, [&](const Extent& extent) {
      if (extent.unwritten) return;
      gate_.counts({extent.pool, extent.count}, [&](PoolRange part, PinCounts) {
        pinned.push_back({extent.file + (part.start - extent.pool), part.count});
      });
    });
  }
  if (pinned.empty()) {
    given_.forget(inode.number, range);
    return send(pieces);
  }
  // A copy, so that what is remembered is what the kernel gets, whatever a holder stores meanwhile.
  std::vector<std::byte> copy;
  copy.reserve(length);
  for (const iovec& piece : pieces) {
    const auto* const from = static_cast<const std::byte*>(piece.iov_base);
    copy.insert(copy.end(), from, from + piece.iov_len);
  }
  if (!given_.given(inode.number, offset, copy, pinned)) {
    // Too many: the kernel shall not keep them.
    if (KernelCache* const kernel = mount_.kernel)
      kernel->invalidate_data(inode.number, nullptr, KernelCache::Asker::other);
  }
  const iovec whole{copy.data(), copy.size()};
  return send({&whole, 1});
}

Status Filesystem::read(OpenFile& file, FileOffset offset, ByteCount length, const Send& send,
                        bool pages) {
  if (!file.readable) return fail(EBADF);
  // The guard below outlives the reply, and so must what it locks.
  const OpenFileRef kept = file.shared_from_this();
  Inode& inode = *file.inode;
  if (!inode.is_regular()) return fail(EINVAL);
  if (const Status loaded = load_extents(inode); !loaded) return loaded;
  pages = pages || !file.direct;
  if (pages) note_page_cache(inode);

  const std::shared_lock guard(inode.lock);
  const std::uint64_t size = inode.record.size;
  if (offset.value >= size || length.value == 0) {
    send({});
    return {};
  }
  update_atime(inode);
  const std::uint64_t end = std::min(size, offset.value + std::min(length.value, size));
  constexpr std::size_t kMostPieces = 1000;  // below IOV_MAX, with room for the reply's header
  std::array<iovec, 4> few;
  std::vector<iovec> many;
  std::size_t count = 0;
  const auto add = [&](const std::byte* at, std::size_t bytes_here) {
    // iovec has no const variant; writev only reads.
    const iovec piece{const_cast<std::byte*>(at), bytes_here};
    if (count < few.size()) {
      few[count] = piece;
    } else {
      if (many.empty()) many.assign(few.begin(), few.end());
      many.push_back(piece);
    }
    ++count;
  };
  for (std::uint64_t at = offset.value; at < end && count < kMostPieces;) {
    const FileRange wanted = covering(FileOffset(at), ByteCount(end - at));
    const auto run = inode.extents->run_at(wanted.start, wanted.count);
    std::uint64_t here = std::min(end, offset_of(run.range.end()).value) - at;
    if (run.pool && !run.unwritten) {
      const PoolOffset from =
          offset_of(*run.pool) + ByteCount(at - offset_of(run.range.start).value);
      if (mount_.volume.medium().lost(from, ByteCount(here))) {
        note_unreadable(inode, FileOffset(at), ByteCount(here));
        return fail(EIO);
      }
      add(mount_.volume.medium().at(from), here);
    } else {
      here = std::min<std::uint64_t>(here, kZeroBytes);
      add(kZeroes.data(), here);
    }
    at += here;
  }
  const auto pieces =
      many.empty() ? std::span<const iovec>(few.data(), count) : std::span<const iovec>(many);
  const bool remembered = pages && (inode.write_pins != 0 || given_.any());
  if (!(remembered ? send_pages(inode, offset, pieces, send) : send(pieces))) {
    note_unreadable(inode, offset, ByteCount(end - offset.value));
  }
  return {};
}

}  // namespace daxfs
