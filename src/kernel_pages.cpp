#include "src/kernel_pages.h"

#include <cstddef>
#include <utility>

#include "src/doorbells.h"

namespace daxfs {

void KernelPages::attributes_changed(InodeNumber inode) {
  if (kernel_ != nullptr) kernel_->invalidate_attributes(inode);
}

void KernelPages::drop(Inode& inode) {
  inode.cache_stale = true;
  // Not from here: the kernel may be evicting the inode, and wait for a worker of ours to write its
  // pages.
  if (kernel_ == nullptr) return;
  const auto gone = [this, number = inode.number, until = given_.now()](bool dropped) {
    if (dropped) given_.forget_until(number, until);
  };
  kernel_->invalidate_data(inode.number, gone, KernelCache::Asker::other, nullptr);
}

bool KernelPages::begin_drop(Inode& inode) {
  if (kernel_ == nullptr) return false;
  // If another request has them dropped just now, this one waits for the end of that, too.
  inode.drops += 1;
  // A read that caches pages after this exchange sees what is on the medium now.
  const bool may_have_pages = inode.page_cached.exchange(false) || inode.cached_writers != 0;
  if (!may_have_pages && inode.drops == 1 && (!keeps_writes_ || inode.end_to_tell == 0)) {
    inode.drops -= 1;
    return false;
  }
  inode.cache_stale = true;
  return true;
}

void KernelPages::finish_drop(OpenFile& file, KernelCache::Asker asker,
                              std::function<void(bool)> done) {
  const auto gone = [this, kept = file.shared_from_this(), until = given_.now(),
                     done = std::move(done)](bool dropped) {
    Inode& about = *kept->inode;
    if (dropped) {
      given_.forget_until(about.number, until);
    } else {
      about.page_cached = true;
    }
    about.drops -= 1;
    done(dropped);
  };
  KernelCache::End end;
  if (keeps_writes_) {
    end = [kept = file.shared_from_this()] { return kept->inode->end_to_tell.load(); };
  }
  kernel_->invalidate_data(file.inode->number, gone, asker, std::move(end));
}

void KernelPages::write_back(OpenFile& file, std::function<void(bool)> done) {
  if (!begin_drop(*file.inode)) return done(true);
  finish_drop(file, KernelCache::Asker::other, std::move(done));
}

void KernelPages::truncate_waits(Inode& inode) {
  if (kernel_ == nullptr) return;
  inode.truncates += 1;
  kernel_->truncate_waits(inode.number);
}

void KernelPages::truncate_ends(Inode& inode) {
  if (kernel_ == nullptr) return;
  kernel_->truncate_ends(inode.number);
  inode.truncates -= 1;
}

void KernelPages::note_cached(Inode& inode) {
  // Most reads and writes find it said already, and need not take the cache line away from others.
  std::atomic<bool>& cached = inode.page_cached;
  if (!cached.load(std::memory_order_relaxed)) cached = true;
  // After that, as DirectAccess::attach() looks at them in the other order.
  if (Doorbells* const bells = inode.doorbells.load(std::memory_order_seq_cst))
    bells->enter_kernel();
}

bool KernelPages::send(Inode& inode, FileOffset offset, std::span<const iovec> pieces,
                       std::span<const FileRange> pinned, const Send& send) {
  std::size_t length = 0;
  for (const iovec& piece : pieces) length += piece.iov_len;
  if (pinned.empty()) {
    given_.forget(inode.number, covering(offset, ByteCount(length)));
    return send(pieces);
  }
  // A copy, so that what is remembered is what the kernel gets, whatever a holder stores meanwhile.
  std::vector<std::byte> copy;
  copy.reserve(length);
  for (const iovec& piece : pieces) {
    const auto* const from = static_cast<const std::byte*>(piece.iov_base);
    copy.insert(copy.end(), from, from + piece.iov_len);
  }
  const bool all = given_.given(inode.number, offset, copy, pinned);
  // Too many, or such as came_back() tells of: the kernel shall not keep them.
  if ((!all || keeps_writes_) && kernel_ != nullptr) drop(inode);
  const iovec whole{copy.data(), copy.size()};
  return send({&whole, 1});
}

std::vector<GivenPages::Piece> KernelPages::changes(const Inode& inode, FileOffset offset,
                                                    std::span<const std::byte> data) {
  return given_.changes(inode.number, offset, data);
}

void KernelPages::written(const Inode& inode, FileOffset offset, std::span<const std::byte> data) {
  given_.written(inode.number, offset, data, inode.write_pins != 0);
}

void KernelPages::zeroed(const Inode& inode, FileOffset offset, ByteCount length) {
  given_.zeroed(inode.number, offset, length);
}

void KernelPages::passed(const Inode& inode, FileOffset offset, ByteCount length) {
  given_.forget(inode.number, covering(offset, length));
}

void KernelPages::forget(const Inode& inode) { given_.forget(inode.number); }

}  // namespace daxfs
