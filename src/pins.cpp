// Opening and closing, and what an open file description can hold: pins.
#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <mutex>
#include <shared_mutex>
#include <utility>

#include "base/byte_range.h"
#include "base/clock.h"
#include "client/daxfs.h"
#include "src/commit_batch.h"
#include "src/filesystem.h"

namespace daxfs {
namespace {

// What of a range a pin would have to fill.
struct Missing {
  bool hole = false;
  bool unwritten = false;
};

Missing missing_in(const ExtentMap& extents, FileRange blocks) {
  Missing missing;
  for (FileBlock at = blocks.start; at < blocks.end();) {
    const auto run = extents.run_at(at, blocks.end() - at);
    missing.hole = missing.hole || !run.pool;
    missing.unwritten = missing.unwritten || run.unwritten;
    at = run.range.end();
  }
  return missing;
}

}  // namespace

Result<OpenFileRef> Filesystem::open(InodeNumber number, int flags) {
  auto ref = cache_.get(number);
  if (!ref) return std::unexpected(ref.error());
  const int mode = flags & O_ACCMODE;
  if (mode != O_RDONLY) {
    if (const Status ok = writable(); !ok) return std::unexpected(ok.error());
  }
  Inode& inode = **ref;
  if (inode.is_directory()) return fail(EISDIR);
  // The kernel opens pipes and devices itself; and whatever works on a file here may count on one.
  if (!inode.is_regular()) return fail(EINVAL);
  auto file = std::make_shared<OpenFile>();
  {
    const std::shared_lock guard(inode.lock);
    if (inode.disposed) return fail(ESTALE);
    inode.opens += 1;
  }
  file->readable = mode != O_WRONLY;
  file->writable = mode != O_RDONLY;
  file->direct = (flags & O_DIRECT) != 0 || inode.write_pins != 0;
  // While a truncate waits, an open that drops dirty pages would wait with it, not to be killed.
  file->keep_cache = inode.truncates != 0 || !inode.cache_stale.exchange(false);
  file->holder = gate_.new_holder();
  file->inode = std::move(*ref);
  return file;
}

void Filesystem::release(OpenFileRef file) {
  Inode& inode = *file->inode;
  if (file->ever_pinned) {
    const auto ended = [this, file](const std::vector<PinInfo>& pins) {
      const auto written = std::ranges::count_if(pins, &PinInfo::write);
      if (written > 0) write_unpinned(*file->inode, static_cast<std::uint32_t>(written));
    };
    // No process, and so no device, works on a medium that is no file of the system (tests).
    auto awaited =
        mount_.pool != nullptr ? grace_->due(file->holder, file->users.all()) : std::nullopt;
    if (awaited) {
      grace_->begin(file->holder, *std::move(awaited), ended);
    } else {
      ended(gate_.drop(file->holder));
    }
  }
  inode.opens -= 1;
  dispose_if_dead(inode);
}

void Filesystem::abandon(OpenFileRef file) {
  Inode& inode = *file->inode;
  inode.opens -= 1;
  dispose_if_dead(inode);
}

void Filesystem::write_unpinned(Inode& inode, std::uint32_t pins) {
  note_write_unpinned(inode, pins);
  inode.cache_stale = true;
  // Not from here: the kernel may be evicting the inode, and wait for a worker of ours to write its
  // pages.
  KernelCache* const kernel = mount_.kernel;
  if (kernel == nullptr) return;
  const auto gone = [this, number = inode.number, until = given_.now()](bool dropped) {
    if (dropped) given_.forget_until(number, until);
  };
  kernel->invalidate_data(inode.number, gone, KernelCache::Asker::other);
}

void Filesystem::note_write_unpinned(Inode& inode, std::uint32_t pins) {
  // The holder wrote behind our back: only now we know.
  {
    const std::shared_lock guard(inode.lock);
    // A survivor's pin can outlive its file, and end under a mount that may store nothing.
    if (!inode.disposed && !mount_.options.read_only) touch(inode);
  }
  inode.write_pins -= pins;
}

void Filesystem::drop_cached_pages(OpenFile& file, KernelCache::Asker asker,
                                   std::function<void(bool)> done) {
  KernelCache* const kernel = mount_.kernel;
  if (kernel == nullptr) return done(true);
  Inode& inode = *file.inode;
  // If another request has them dropped just now, this one waits for the end of that, too.
  inode.drops += 1;
  // A read that caches pages after this exchange sees what is on the medium now.
  if (!inode.page_cached.exchange(false) && inode.drops == 1) {
    inode.drops -= 1;
    return done(true);
  }
  inode.cache_stale = true;
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
  kernel->invalidate_data(inode.number, gone, asker);
}

void Filesystem::note_page_cache(Inode& inode) {
  // Most reads and writes find it said already, and need not take the cache line away from others.
  std::atomic<bool>& cached = inode.page_cached;
  if (!cached.load(std::memory_order_relaxed)) cached = true;
}

void Filesystem::after_write(OpenFile& file, std::function<void()> done) {
  if (!file.direct) return done();
  drop_cached_pages(file, KernelCache::Asker::write, [done = std::move(done)](bool) { done(); });
}

Status Filesystem::populate(Inode& inode, FileRange range, std::uint64_t size) {
  ExtentMap& map = *inode.extents;
  // Filling holes never makes this more.
  const std::size_t slots = map.slots_to_write(range);
  if (const Status filled = fill_holes(inode, range, Fill::zeroed, size, slots); !filled)
    return filled;
  // Preallocated blocks: zeroed first, shown as written afterwards. In a full pool these may be
  // more than asked for; then all of it happens here, with the lock held.
  Transaction tx;
  const FileRange shown = map.reserve_to_write(tx, inode.record, range);
  std::vector<FileRange> unwritten;
  map.for_each(shown, [&](const Extent& extent) {
    if (!extent.unwritten) return;
    mount_.volume.medium().zero(offset_of(extent.pool), bytes(extent.count));
    unwritten.push_back({extent.file, extent.count});
  });
  if (unwritten.empty()) return {};
  mount_.volume.medium().fence();
  // A few at a time, as a transaction holds.
  const std::size_t per_commit = changes_per_commit(mount_.volume.journal(), 4);
  Status committed;  // the last one counts: none succeeds behind one that failed
  for (std::size_t i = 0; i < unwritten.size(); ++i) {
    map.mark_written(tx, unwritten[i]);
    if ((i + 1) % per_commit != 0 && i + 1 < unwritten.size()) continue;
    stage(tx, inode);
    committed = commit(tx);
    tx.clear();
  }
  return committed;
}

// A pin that is asked for, until it is answered.
struct Filesystem::PinAsk {
  OpenFileRef file;  // when the request is parked, another thread may answer it
  PinRange range;
  Requester requester;
  CancellationRef cancellation;
  Completion<PinId> done;
  bool behind_all = false;  // there are pages that the kernel cannot write back now
  bool again = false;
  const std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();
};

Result<std::optional<PinId>> Filesystem::pin_once(const PinAsk& ask, const TicketRef& ticket) {
  OpenFile& file = *ask.file;
  const PinRange& range = ask.range;
  const Requester& requester = ask.requester;
  Inode& inode = *file.inode;
  const FileRange blocks = covering(range.offset, range.length);
  const std::uint64_t end = range.offset.value + range.length.value;
  const bool may_allocate = (range.flags & DAXFS_PIN_ALLOCATE) != 0;

  PinRequest request{
      .holder = file.holder,
      .inode = inode.number,
      .offset = range.offset,
      .length = range.length,
      .blocks = {},
      .requester = requester,
      .kind = (range.flags & DAXFS_PIN_SHORT) != 0 ? PinKind::short_term : PinKind::long_term,
      .write = (range.flags & DAXFS_PIN_WRITE) != 0,
      .nowait = (range.flags & DAXFS_PIN_NOWAIT) != 0,
      // Nothing can be taken from a file of a read-only mount; short-term pins promise to end.
      .recorded = (range.flags & DAXFS_PIN_SHORT) == 0 && !mount_.options.read_only,
      .behind_all = ask.behind_all};

  // Called with the lock held, shared or exclusive, and all blocks there.
  const auto take = [&]() -> Result<std::optional<PinId>> {
    // A short-term pin writes nothing that could fail.
    if (const Status ok = durable(); !ok) return std::unexpected(ok.error());
    const std::vector<PoolRange> physical = inode.extents->physical(blocks);
    request.blocks = physical;
    if (request.write) inode.write_pins += 1;
    auto pin = gate_.pin(ticket, request);
    if (pin && *pin) {
      // Even if it goes again, the gate knows the holder from now on.
      file.ever_pinned = true;
      const Status recorded = request.recorded ? record_pin(file, **pin, request) : Status();
      if (recorded) return pin;
      gate_.undo_pin(file.holder, **pin);
      pin = std::unexpected(recorded.error());
    }
    if (request.write) inode.write_pins -= 1;
    return pin;
  };
  // What a holder writes changes the file as write(2) does.
  const auto drops_privileges = [&] {
    return request.write && requester.uid != 0 && has_privileges(inode);
  };
  {
    const std::shared_lock guard(inode.lock);
    const Missing missing = missing_in(*inode.extents, blocks);
    if (missing.hole && !may_allocate) return fail(ENXIO);
    if (!missing.hole && !missing.unwritten && !drops_privileges() &&
        (!may_allocate || end <= inode.record.size))
      return take();
  }
  if (const Status ok = writable(); !ok) return std::unexpected(ok.error());
  const std::unique_lock guard(inode.lock);
  if (inode.disposed) return fail(ESTALE);
  if (missing_in(*inode.extents, blocks).hole && !may_allocate) return fail(ENXIO);
  // Before anything is allocated for a pin that is refused.
  const auto admitted = gate_.admit(ticket, request);
  if (!admitted) return std::unexpected(admitted.error());
  if (*admitted == Verdict::parked) return std::nullopt;
  const std::uint64_t before = inode.record.size;
  const bool grows = may_allocate && end > before;
  if (const Status ready = populate(inode, blocks, grows ? end : 0); !ready)
    return std::unexpected(ready.error());
  const bool dropped = drops_privileges() && drop_privileges_unasked(inode);
  if (grows || dropped) {
    const bool to_commit = dropped || end > inode.record.size;
    const Status committed = to_commit ? grow_to(inode, grows ? end : 0) : Status();
    if (grows) note_growth(inode, before);
    if (KernelCache* const kernel = mount_.kernel) kernel->invalidate_attributes(inode.number);
    if (!committed) return std::unexpected(committed.error());
  }
  return take();
}

void Filesystem::pin(OpenFile& file, const PinRange& range, const Caller& caller,
                     const CancellationRef& cancellation, Completion<PinId> done) {
  constexpr std::uint32_t known =
      DAXFS_PIN_SHORT | DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE | DAXFS_PIN_NOWAIT;
  Inode& inode = *file.inode;
  if (!inode.is_regular()) return done(fail(EINVAL));
  if ((range.flags & ~known) != 0 || !is_byte_range(range.offset, range.length)) {
    return done(fail(EINVAL));
  }
  const bool changes = (range.flags & (DAXFS_PIN_WRITE | DAXFS_PIN_ALLOCATE)) != 0;
  if (!file.readable || (changes && !file.writable)) return done(fail(EBADF));
  if (changes) {
    if (const Status dropped = drop_capability(inode); !dropped)
      return done(std::unexpected(dropped.error()));
  }
  if (const Status loaded = load_extents(inode); !loaded)
    return done(std::unexpected(loaded.error()));

  Requester requester{processes_.process(caller.thread), caller.uid};
  if (mount_.pool != nullptr) {
    const ProcessMark mark = processes_.identity(requester.process).mark;
    requester.start_ticks = mark.start_ticks;
    file.users.add(mark);
  }
  ask_for_pin(std::make_shared<PinAsk>(PinAsk{.file = file.shared_from_this(),
                                              .range = range,
                                              .requester = requester,
                                              .cancellation = cancellation,
                                              .done = std::move(done)}));
}

void Filesystem::ask_for_pin(const std::shared_ptr<PinAsk>& ask) {
  // Else what was stored through a mapping would still be a hole.
  write_back(*ask->file, [this, ask](bool written) {
    // While a truncate waits the kernel writes nothing. The pin comes behind it then.
    ask->behind_all = !written;
    run_at_gate(ask->cancellation, [this, ask](const TicketRef& ticket) {
      const auto pin = pin_once(*ask, ticket);
      if (pin && !*pin) return true;
      if (pin) {
        settle_pin(ask, **pin);
      } else {
        ask->done(std::unexpected(pin.error()));
      }
      return false;
    });
  });
}

void Filesystem::settle_pin(const std::shared_ptr<PinAsk>& ask, PinId pin) {
  // Once more: a page may have been dirtied since, and from here on its blocks stay.
  write_back(*ask->file, [this, ask, pin](bool written) {
    if (written) return ask->done(pin);
    // What is dirty would be written over what the holder stores.
    if (gate_.unpin(ask->file->holder, pin) && (ask->range.flags & DAXFS_PIN_WRITE) != 0)
      ask->file->inode->write_pins -= 1;
    // What has waited at the gate may not wait there as long once more, if the kernel has a limit.
    const auto waited = std::chrono::steady_clock::now() - ask->since;
    const bool late = mount_.request_limit && waited > *mount_.request_limit / 4;
    if (std::exchange(ask->again, true) || late || (ask->range.flags & DAXFS_PIN_NOWAIT) != 0)
      return ask->done(fail(EAGAIN));
    ask_for_pin(ask);
  });
}

void Filesystem::write_back(OpenFile& file, std::function<void(bool)> done) {
  drop_cached_pages(file, KernelCache::Asker::other, std::move(done));
}

void Filesystem::unpin(OpenFile& file, PinId pin, Done done) {
  const auto info = gate_.unpin(file.holder, pin);
  if (!info) return done(std::unexpected(info.error()));
  if (!info->write) return done({});
  Inode& inode = *file.inode;
  note_write_unpinned(inode, 1);
  if (KernelCache* const kernel = mount_.kernel) kernel->invalidate_attributes(inode.number);
  // Whoever waits for pins may be waiting for this one: it is answered in any case.
  write_back(file, [done = std::move(done)](bool) { done({}); });
}

Status Filesystem::record_pin(const OpenFile& file, PinId pin, const PinRequest& request) {
  // A medium that is no file of the system (tests) is mapped by no process.
  if (mount_.pool == nullptr && request.requester.process == 0) {
    gate_.record_pin(file.holder, pin, 0);
    return {};
  }
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  const auto slot = acknowledge(mount_.volume.pin_records().add(
      {.owner = processes_.owner(request.requester.process, request.requester.uid),
       .inode = request.inode,
       .generation = file.inode->record.generation,
       .offset = request.offset,
       .length = request.length,
       .write = request.write,
       .since_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since).count(),
       .pin_id = pin.value},
      request.blocks, is_trusted({.uid = request.requester.uid}) ? PinRoom::all : PinRoom::share));
  if (!slot) return std::unexpected(slot.error());
  gate_.record_pin(file.holder, pin, slot->position);
  return {};
}

Status Filesystem::adopt(OpenFile& file, PinId pin, const Caller& caller) {
  const pid_t process = processes_.process(caller.thread);
  const Status moved = survivors_->give(pin, processes_.owner(process, caller.uid), file);
  if (moved) {
    file.users.add(processes_.identity(process).mark);
    file.ever_pinned = true;
  }
  return moved;
}

void Filesystem::note_user(OpenFile& file, const Caller& caller) {
  if (mount_.pool == nullptr || !file.ever_pinned) return;
  file.users.add(processes_.identity(processes_.process(caller.thread)).mark);
}

Status Filesystem::release_pin(std::string_view text, const Caller& caller) {
  if (!is_trusted(caller)) return fail(EPERM);
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return fail(EINVAL);
  return survivors_->release(PinId{number});
}

Result<Filesystem::PinnedExtents> Filesystem::pin_extents(OpenFile& file, PinId pin,
                                                          std::uint64_t first, std::size_t limit) {
  const auto info = gate_.find_pin(file.holder, pin);
  if (!info) return fail(ENOENT);
  const auto blocks = gate_.pin_blocks(file.holder, pin);
  if (!blocks) return std::unexpected(blocks.error());
  PinnedExtents out{.extents = {}, .writable = info->write, .more = false};
  FileBlock at = block_of(info->offset);
  for (std::uint64_t i = 0; i < blocks->size(); ++i) {
    const PoolRange& run = (*blocks)[i];
    if (i >= first) {
      if (out.extents.size() == limit) {
        out.more = true;
        break;
      }
      out.extents.push_back(
          {offset_of(at), offset_of(run.start), bytes(run.count), false, most_pins(run)});
    }
    at += run.count;
  }
  return out;
}

PinCounts Filesystem::most_pins(PoolRange range) const {
  PinCounts most;
  gate_.counts(range, [&](PoolRange, PinCounts here) {
    most.long_term = std::max(most.long_term, here.long_term);
    most.short_term = std::max(most.short_term, here.short_term);
  });
  return most;
}

Result<Filesystem::PinnedExtents> Filesystem::extents(OpenFile& file, FileOffset offset,
                                                      ByteCount length, std::size_t limit) {
  Inode& inode = *file.inode;
  if (!inode.is_regular()) return fail(EINVAL);
  if (!file.readable) return fail(EBADF);
  if (!is_byte_range(offset, length)) return fail(EINVAL);
  if (const Status loaded = load_extents(inode); !loaded) return std::unexpected(loaded.error());
  PinnedExtents out;
  const std::shared_lock guard(inode.lock);
  const FileRange range = covering(offset, length);
  FileBlock at = range.start;
  while (const auto extent = inode.extents->first_from(at)) {
    if (extent->file >= range.end()) break;
    if (out.extents.size() == limit) {
      out.more = true;
      break;
    }
    const FileBlock from = std::max(extent->file, range.start);
    const FileBlock to = std::min(extent->end(), range.end());
    const PoolRange pool{extent->pool + (from - extent->file), to - from};
    out.extents.push_back({offset_of(from), offset_of(pool.start), bytes(pool.count),
                           extent->unwritten, most_pins(pool)});
    at = extent->end();
  }
  return out;
}

}  // namespace daxfs
