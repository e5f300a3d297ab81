#include "src/pins.h"

#include <chrono>
#include <mutex>
#include <shared_mutex>
#include <utility>
#include <vector>

#include "base/byte_range.h"
#include "client/daxfs.h"

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

// A pin that is asked for, until it is answered.
struct Pins::Ask {
  OpenFileRef file;  // when the request is parked, another thread may answer it
  PinRange range;
  Requester requester;
  CancellationRef cancellation;
  Completion<PinId> done;
  bool behind_all = false;  // there are pages that the kernel cannot write back now
  bool again = false;
  const std::chrono::steady_clock::time_point since = std::chrono::steady_clock::now();

  Inode& inode() const { return *file->inode; }
  FileRange blocks() const { return covering(range.offset, range.length); }
  std::uint64_t end() const { return range.offset.value + range.length.value; }
  bool has(std::uint32_t flag) const { return (range.flags & flag) != 0; }
  bool changes() const { return has(DAXFS_PIN_WRITE) || has(DAXFS_PIN_ALLOCATE); }
  bool may_allocate() const { return has(DAXFS_PIN_ALLOCATE); }
  // What a holder writes changes the file as write(2) does. The inode's lock is held.
  bool drops_privileges() const {
    inode().lock.assert_held_shared();
    return has(DAXFS_PIN_WRITE) && requester.uid != 0 && inode().privileges() != 0;
  }
  // The first pin for writing, of blocks that reach behind the end. The inode's lock is held.
  bool pins_behind_end() const {
    inode().lock.assert_held_shared();
    return has(DAXFS_PIN_WRITE) && inode().write_pins == 0 &&
           offset_of(blocks().end()).value > inode().record.size;
  }
  // Without its blocks.
  PinRequest request(bool read_only) const {
    return {.holder = file->holder,
            .inode = inode().number,
            .offset = range.offset,
            .length = range.length,
            .blocks = {},
            .requester = requester,
            .kind = has(DAXFS_PIN_SHORT) ? PinKind::short_term : PinKind::long_term,
            .write = has(DAXFS_PIN_WRITE),
            .nowait = has(DAXFS_PIN_NOWAIT),
            // Nothing can be taken from a file of a read-only mount; short-term pins promise to
            // end.
            .recorded = !has(DAXFS_PIN_SHORT) && !read_only,
            .behind_all = behind_all};
  }
};

Result<std::optional<PinId>> Pins::take(const Ask& ask, const TicketRef& ticket) {
  OpenFile& file = *ask.file;
  Inode& inode = ask.inode();
  inode.lock.assert_held_shared();
  // A short-term pin writes nothing that could fail.
  if (const Status ok = health_.durable(); !ok) return std::unexpected(ok.error());
  PinRequest request = ask.request(mount_.options.read_only);
  const std::vector<PoolRange> physical = inode.map().physical(ask.blocks());
  request.blocks = physical;
  if (request.write) inode.write_pins += 1;
  auto pin = gate_.pin(ticket, request);
  if (pin && *pin) {
    // Even if it goes again, the gate knows the holder from now on.
    file.ever_pinned = true;
    const Status recorded = request.recorded ? record(file, **pin, request) : Status();
    if (recorded) return pin;
    gate_.undo_pin(file.holder, **pin);
    pin = std::unexpected(recorded.error());
  }
  if (request.write) inode.write_pins -= 1;
  return pin;
}

Result<Verdict> Pins::prepare(const Ask& ask, const TicketRef& ticket) {
  Inode& inode = ask.inode();
  inode.lock.assert_held();
  if (inode.disposed) return fail(ESTALE);
  if (ask.changes() && inode.is_protected()) return fail(EPERM);  // the lock was let go
  const FileRange blocks = ask.blocks();
  if (missing_in(inode.map(), blocks).hole && !ask.may_allocate()) return fail(ENXIO);
  // Before anything is allocated for a pin that is refused.
  const auto admitted = gate_.admit(ticket, ask.request(mount_.options.read_only));
  if (!admitted || *admitted == Verdict::parked) return admitted;
  const std::uint64_t before = inode.record.size;
  const bool grows = ask.may_allocate() && ask.end() > before;
  const std::uint64_t size = grows ? ask.end() : 0;
  if (const Status ready = filling_.populate(inode, blocks, size); !ready)
    return std::unexpected(ready.error());
  if (filling_.clears_behind_end() && ask.pins_behind_end()) {
    filling_.clear_behind_end(inode, offset_of(blocks.end()).value);
    mount_.volume.medium().fence();
  }
  const bool dropped = ask.drops_privileges() && inodes_.drop_privileges(inode);
  if (!grows && !dropped) return Verdict::proceed;
  const bool to_commit = dropped || ask.end() > inode.record.size;
  const Status committed = to_commit ? filling_.grow_to(inode, size) : Status();
  if (grows) inode.note_growth(before);
  pages_.attributes_changed(inode.number);
  if (!committed) return std::unexpected(committed.error());
  return Verdict::proceed;
}

Result<std::optional<PinId>> Pins::pin_once(const Ask& ask, const TicketRef& ticket) {
  Inode& inode = ask.inode();
  {
    const ReaderLock guard(inode.lock);
    // What its holder will do cannot be refused later.
    if (ask.changes() && inode.is_protected()) return fail(EPERM);
    const Missing missing = missing_in(inode.map(), ask.blocks());
    if (missing.hole && !ask.may_allocate()) return fail(ENXIO);
    const bool changes_size = ask.may_allocate() && ask.end() > inode.record.size;
    const bool clears = filling_.clears_behind_end() && ask.pins_behind_end();
    if (!missing.hole && !missing.unwritten && !changes_size && !clears && !ask.drops_privileges())
      return take(ask, ticket);
  }
  if (const Status ok = health_.writable(); !ok) return std::unexpected(ok.error());
  const WriterLock guard(inode.lock);
  const auto prepared = prepare(ask, ticket);
  if (!prepared) return std::unexpected(prepared.error());
  if (*prepared == Verdict::parked) return std::nullopt;
  return take(ask, ticket);
}

void Pins::pin(OpenFile& file, const PinRange& range, const Caller& caller,
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
    if (const Status dropped = xattrs_.drop_capability(inode); !dropped)
      return done(std::unexpected(dropped.error()));
  }
  if (const Status loaded = inodes_.load_extents(inode); !loaded)
    return done(std::unexpected(loaded.error()));

  Requester requester = callers_.requester(caller);
  if (mount_.pool != nullptr) {
    const ProcessMark mark = callers_.mark(requester.process);
    requester.start_ticks = mark.start_ticks;
    file.users.add(mark);
  }
  settle_pages_and_ask(std::make_shared<Ask>(Ask{.file = file.shared_from_this(),
                                                 .range = range,
                                                 .requester = requester,
                                                 .cancellation = cancellation,
                                                 .done = std::move(done)}));
}

void Pins::settle_pages_and_ask(const AskRef& ask) {
  // Else what was stored through a mapping would still be a hole.
  pages_.write_back(*ask->file, [this, ask](bool written) {
    // While a truncate waits the kernel writes nothing. The pin comes behind it then.
    ask->behind_all = !written;
    run_at_gate(gate_, ask->cancellation, ask->file, [this, ask](const TicketRef& ticket) {
      const auto pin = pin_once(*ask, ticket);
      if (pin && !*pin) return true;
      if (pin) {
        settle(ask, **pin);
      } else {
        ask->done(std::unexpected(pin.error()));
      }
      return false;
    });
  });
}

void Pins::settle(const AskRef& ask, PinId pin) {
  // Once more: a page may have been dirtied since, and from here on its blocks stay.
  pages_.write_back(*ask->file, [this, ask, pin](bool written) {
    if (written) return ask->done(pin);
    // What is dirty would be written over what the holder stores.
    if (gate_.unpin(ask->file->holder, pin) && ask->has(DAXFS_PIN_WRITE))
      ask->inode().write_pins -= 1;
    // What has waited at the gate may not wait there as long once more, if the kernel has a limit.
    const auto waited = std::chrono::steady_clock::now() - ask->since;
    const bool late = mount_.request_limit && waited > *mount_.request_limit / 4;
    if (std::exchange(ask->again, true) || late || ask->has(DAXFS_PIN_NOWAIT))
      return ask->done(fail(EAGAIN));
    settle_pages_and_ask(ask);
  });
}

Status Pins::record(const OpenFile& file, PinId pin, const PinRequest& request) {
  // A medium that is no file of the system (tests) is mapped by no process.
  if (mount_.pool == nullptr && request.requester.process == 0) {
    gate_.record_pin(file.holder, pin, 0);
    return {};
  }
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  const auto slot = health_.acknowledge(mount_.volume.pin_records().add(
      {.owner = callers_.owner(request.requester),
       .inode = request.inode,
       .generation = file.inode->generation,
       .offset = request.offset,
       .length = request.length,
       .write = request.write,
       .since_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since).count(),
       .pin_id = pin.value},
      request.blocks, callers_.is_trusted(request.requester.uid) ? PinRoom::all : PinRoom::share));
  if (!slot) return std::unexpected(slot.error());
  gate_.record_pin(file.holder, pin, slot->position);
  return {};
}

void Pins::unpin(OpenFile& file, PinId pin, Done done) {
  const auto info = gate_.unpin(file.holder, pin);
  if (!info) return done(std::unexpected(info.error()));
  if (!info->write) return done({});
  Inode& inode = *file.inode;
  touch_written(inode, 1);
  pages_.attributes_changed(inode.number);
  // A requester may be waiting for this pin: it is answered in any case.
  pages_.write_back(file, [done = std::move(done)](bool) { done({}); });
}

void Pins::write_pins_ended(Inode& inode, std::uint32_t pins) {
  touch_written(inode, pins);
  pages_.drop(inode);
}

void Pins::touch_written(Inode& inode, std::uint32_t pins) {
  // The holder wrote behind our back: only now we know.
  {
    const ReaderLock guard(inode.lock);
    // A survivor's pin can outlive its file, and end under a mount that may store nothing.
    if (!inode.disposed && !mount_.options.read_only) inodes_.touch(inode);
  }
  inode.write_pins -= pins;
}

}  // namespace daxfs
