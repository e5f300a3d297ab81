// The model run: operations on open files, and pins.
#include <fcntl.h>
#include <linux/fs.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "client/daxfs.h"
#include "tests/model/model_run.h"

namespace daxfs::testing {
namespace {

constexpr std::size_t kMostHandles = 10;
constexpr std::uint64_t kFarAway = 5ull << 40;

}  // namespace

void ModelRun::step() {
  struct Choice {
    unsigned weight;
    void (ModelRun::*operation)();
  };
  static constexpr std::array<Choice, 28> kChoices{{
      {10, &ModelRun::make},         {4, &ModelRun::link},
      {6, &ModelRun::unlink},        {3, &ModelRun::remove_directory},
      {9, &ModelRun::rename},        {5, &ModelRun::lookup},
      {6, &ModelRun::list_in_steps}, {4, &ModelRun::change_attributes},
      {4, &ModelRun::set_xattr},     {2, &ModelRun::remove_xattr},
      {2, &ModelRun::get_xattrs},    {8, &ModelRun::open},
      {5, &ModelRun::close},         {25, &ModelRun::write},
      {1, &ModelRun::scatter},       {15, &ModelRun::read},
      {10, &ModelRun::truncate},     {6, &ModelRun::allocate},
      {5, &ModelRun::zero_range},    {10, &ModelRun::punch},
      {6, &ModelRun::seek},          {8, &ModelRun::take_pin},
      {6, &ModelRun::drop_pin},      {6, &ModelRun::look_through_pin},
      {2, &ModelRun::forget_lookup}, {1, &ModelRun::remount},
      {2, &ModelRun::make_unnamed},  {5, &ModelRun::set_acl},
  }};
  unsigned total = 0;
  for (const Choice& choice : kChoices) total += choice.weight;
  std::uint64_t at = below(total);
  for (const Choice& choice : kChoices) {
    if (at < choice.weight) return (this->*choice.operation)();
    at -= choice.weight;
  }
}

ModelRun::Handle* ModelRun::any_handle() {
  return handles_.empty() ? nullptr : &handles_[below(handles_.size())];
}

std::uint64_t ModelRun::any_offset(const Node& node) {
  const std::uint64_t near = std::min<std::uint64_t>(node.size, 1 << 20);
  switch (below(10)) {
    case 0:
      return node.size;
    case 1:
      return below(near + (200 << 10));
    case 2:
      return chance(20) ? kFarAway + below(1 << 16) : 0;
    case 3:
    case 4:
    case 5:
      return below(near / kBlockSize + 4) * kBlockSize;
    default:
      return below(near + 5000);
  }
}

std::uint64_t ModelRun::any_length() {
  switch (below(8)) {
    case 0:
      return 1 + below(10);
    case 1:
      return 1 + below(1 << 20);
    case 2:
    case 3:
      return (1 + below(12)) * kBlockSize;
    default:
      return 1 + below(30000);
  }
}

// --- open files ---

void ModelRun::open() {
  if (handles_.size() >= kMostHandles) return close();
  const NodeId id = any_file();
  if (id == 0) return;
  const std::uint64_t kind = below(10);
  const int flags = kind == 0 ? O_RDONLY : kind == 1 ? O_WRONLY : O_RDWR;
  log("open {} flags {}", id, flags);
  auto got = fs().files().open(real(id), flags);
  agree(code_of(got), 0);
  ref_.open(id);
  handles_.push_back({std::move(*got), id, flags != O_WRONLY, flags != O_RDONLY, {}});
}

void ModelRun::make_unnamed() {
  if (handles_.size() >= kMostHandles) return close();
  const NodeId parent = any_directory();
  const ReferenceFs::NewNode what{.mode = S_IFREG | static_cast<mode_t>(below(010000)),
                                  .rdev = 0,
                                  .target = {},
                                  .uid = static_cast<uid_t>(below(3)),
                                  .gid = static_cast<gid_t>(below(3)),
                                  .umask = static_cast<mode_t>(below(01000))};
  const bool linkable = chance(80);
  log("make unnamed in {}, mode {:o}", parent, what.mode);
  const auto got = fs().names().make_unnamed(real(parent), what.mode & 07777, linkable,
                                             Caller{what.uid, what.gid, 0, what.umask});
  const bool no_run = ref_.node(parent).standard && longest_free_run() < 3;
  if (no_space(code_of(got), may_lack_inodes() || no_run, {parent})) return;
  const auto expected = ref_.make_unnamed(parent, what, linkable);
  agree(code_of(got), code_of(expected));
  check_attributes(parent);
  if (!got) return;
  auto file = fs().files().open(got->inode, O_RDWR);
  agree(code_of(file), 0);
  ref_.open(*expected);
  handles_.push_back({std::move(*file), *expected, true, true, {}});
  note_lookup(got, *expected);
  check_attributes(*expected);
}

void ModelRun::do_close(std::size_t index) {
  Handle handle = std::move(handles_[index]);
  handles_.erase(handles_.begin() + static_cast<std::ptrdiff_t>(index));
  log("close {} with {} pins", handle.node, handle.pins.size());
  fs().files().release(std::move(handle.file));
  for (const HeldPin& pin : handle.pins) ref_.unpin(pin.ref);
  ref_.close(handle.node);
  check_attributes(handle.node);
}

void ModelRun::close() {
  if (!handles_.empty()) do_close(below(handles_.size()));
}

// --- data ---

void ModelRun::do_write(Handle& handle, std::uint64_t offset, const std::string& data, bool drop) {
  log("write {} at {} + {}", handle.node, offset, data.size());
  const std::uint64_t missing = ref_.holes(handle.node, offset, data.size());
  const bool full = short_of(missing);
  // What is there already can be written, preallocated or not.
  const bool scarce = full && missing > 0;
  const auto got = testing::write(fs(), *handle.file, offset, data, drop);
  if (no_space(code_of(got), scarce, {handle.node})) return;
  agree(code_of(got), handle.writable ? 0 : EBADF);
  if (!got) return;
  if (*got != data.size()) {
    log("    short: {}", *got);
    ++seen_.short_writes;
    require(*got < data.size() && *got > 0 && scarce, "{} of {} bytes written", *got, data.size());
  }
  ref_.write(handle.node, offset, std::string_view(data).substr(0, *got), drop);
  if (full) learn_zeroed(handle.node);
  check_attributes(handle.node);
  if (chance(30)) check_content(handle.node);
}

void ModelRun::write() {
  Handle* const handle = any_handle();
  if (handle == nullptr) return open();
  const std::uint64_t offset = any_offset(ref_.node(handle->node));
  do_write(*handle, offset, any_bytes(any_length()), chance(10));
}

void ModelRun::scatter() {
  Handle* const handle = any_handle();
  if (handle == nullptr || !handle->writable) return;
  const std::uint64_t start = below(64);
  const std::uint64_t stride = 2 + below(2);
  for (std::uint64_t i = 0; i < 150; ++i) {
    do_write(*handle, (start + i * stride) * kBlockSize, any_bytes(1 + below(100)), false);
  }
}

void ModelRun::read() {
  Handle* const handle = any_handle();
  if (handle == nullptr) return;
  const std::uint64_t offset = any_offset(ref_.node(handle->node));
  const std::uint64_t length = any_length();
  log("read {} at {} + {}", handle->node, offset, length);
  const auto got = testing::read(fs(), *handle->file, offset, length);
  agree(code_of(got), handle->readable ? 0 : EBADF);
  require(!got || *got == ref_.read(handle->node, offset, length), "wrong bytes");
}

void ModelRun::truncate() {
  const NodeId id = chance(90) && !handles_.empty() ? any_handle()->node : any_node();
  const Node& node = ref_.node(id);
  AttributeChange change;
  change.size = chance(60) ? below(node.size + 1) : any_offset(node);
  if (chance(20)) change.size = *change.size / kBlockSize * kBlockSize;
  if (chance(5)) change.size = node.size;
  if (chance(1)) change.size = UINT64_MAX - below(1000);
  if (chance(5)) change.mode = 0644;
  log("truncate {} from {} to {}", id, node.size, *change.size);
  const bool scarce = short_of(0);
  const auto got = testing::set_attributes(fs(), node.real, change);
  if (no_space(code_of(got), scarce, {id})) return;
  agree(code_of(got), code_of(ref_.set_attributes(id, change)));
  check_attributes(id);
  if (node.is_regular() && chance(30)) check_content(id);
}

void ModelRun::do_space(const char* what, bool zero) {
  Handle* const handle = any_handle();
  if (handle == nullptr) return open();
  const std::uint64_t offset = any_offset(ref_.node(handle->node));
  const std::uint64_t length = chance(2) ? 0 : chance(2) ? INT64_MAX - below(9) : any_length();
  const bool keep_size = chance(50);
  log("{} {} at {} + {} keep_size {}", what, handle->node, offset, length, keep_size);
  int expected = 0;
  if (length == 0) expected = EINVAL;
  if (length > 0 && offset > INT64_MAX - length) expected = EFBIG;
  if (!handle->writable) expected = EBADF;
  bool scarce = false;
  if (expected == 0) {
    // Far more than the pool has: not worth counting.
    scarce = length > setup_.pool_bytes || short_of(ref_.holes(handle->node, offset, length));
  }
  const Status got = zero ? fs().space().zero_range(*handle->file, FileOffset(offset),
                                                    ByteCount(length), keep_size, kRoot)
                          : fs().space().allocate(*handle->file, FileOffset(offset),
                                                  ByteCount(length), keep_size, kRoot);
  if (no_space(code_of(got), scarce, {handle->node})) return;
  agree(code_of(got), expected);
  if (got && zero) ref_.zero_range(handle->node, offset, length, keep_size);
  if (got && !zero) ref_.allocate(handle->node, offset, length, keep_size);
  check_attributes(handle->node);
  if (chance(30)) check_content(handle->node);
}

void ModelRun::allocate() { do_space("allocate", false); }
void ModelRun::zero_range() { do_space("zero_range", true); }

void ModelRun::punch() {
  Handle* const handle = any_handle();
  if (handle == nullptr) return open();
  const std::uint64_t offset = any_offset(ref_.node(handle->node));
  const std::uint64_t length = chance(5) ? INT64_MAX - offset : any_length();
  log("punch {} at {} + {}", handle->node, offset, length);
  const bool scarce = short_of(0);
  const Status got = testing::punch(fs(), *handle->file, offset, length);
  if (no_space(code_of(got), scarce, {handle->node})) return;
  agree(code_of(got), handle->writable ? code_of(ref_.punch(handle->node, offset, length)) : EBADF);
  check_attributes(handle->node);
  if (chance(50)) check_content(handle->node);
}

void ModelRun::seek() {
  Handle* const handle = any_handle();
  if (handle == nullptr) return;
  const std::uint64_t from = any_offset(ref_.node(handle->node));
  const bool data = chance(50);
  log("seek {} from {} for {}", handle->node, from, data ? "data" : "a hole");
  const auto got = fs().space().seek(*handle->file, FileOffset(from), data ? SEEK_DATA : SEEK_HOLE);
  const auto expected = ref_.seek(handle->node, from, data);
  agree(code_of(got), code_of(expected));
  require(!got || got->value == *expected, "found {} instead of {}", got ? got->value : 0,
          expected.value_or(0));
}

// --- pins ---

void ModelRun::take_pin() {
  Handle* const handle = any_handle();
  if (handle == nullptr) return open();
  const Node& node = ref_.node(handle->node);
  const bool write = chance(50);
  const bool may_allocate = chance(50);
  std::uint64_t offset = any_offset(node);
  std::uint64_t length = std::min<std::uint64_t>(any_length(), 200 << 10);
  if (chance(60) && !node.blocks.empty()) {  // where there is something
    offset = std::next(node.blocks.begin(), static_cast<std::ptrdiff_t>(below(node.blocks.size())))
                 ->first *
             kBlockSize;
    length = 1 + below(chance(70) ? 3 * kBlockSize : 30 * kBlockSize);
  }
  log("pin {} at {} + {}{}{}", handle->node, offset, length, write ? " write" : "",
      may_allocate ? " allocate" : "");
  const bool scarce = short_of(ref_.holes(handle->node, offset, length));
  const auto got = testing::pin(
      fs(), *handle->file,
      {.offset = FileOffset(offset),
       .length = ByteCount(length),
       .flags = (write ? DAXFS_PIN_WRITE : 0) | (may_allocate ? DAXFS_PIN_ALLOCATE : 0) |
                (chance(30) ? DAXFS_PIN_SHORT : 0) | (chance(30) ? DAXFS_PIN_NOWAIT : 0)});
  if (no_space(code_of(got), scarce, {handle->node})) return;
  if (!handle->readable || ((write || may_allocate) && !handle->writable)) {
    agree(code_of(got), EBADF);
    return;
  }
  const auto expected = ref_.pin(handle->node, offset, length, write, may_allocate);
  agree(code_of(got), code_of(expected));
  if (got) handle->pins.push_back({*got, *expected, write});
  if (scarce) learn_zeroed(handle->node);
  check_attributes(handle->node);
}

void ModelRun::drop_pin() {
  Handle* const handle = any_handle();
  if (handle == nullptr || handle->pins.empty()) return;
  const std::size_t i = below(handle->pins.size());
  const HeldPin pin = handle->pins[i];
  log("unpin {} pin {}", handle->node, pin.real.value);
  agree(code_of(testing::unpin(fs(), *handle->file, pin.real)), 0);
  handle->pins.erase(handle->pins.begin() + static_cast<std::ptrdiff_t>(i));
  ref_.unpin(pin.ref);
  check_attributes(handle->node);
  require(code_of(testing::unpin(fs(), *handle->file, pin.real)) == ENOENT, "unpinned twice");
}

// What the holder sees in the pool is what the file has there, or had when it lost the block.
void ModelRun::look_through_pin() {
  Handle* const handle = any_handle();
  if (handle == nullptr || handle->pins.empty()) return;
  const HeldPin pin = handle->pins[below(handle->pins.size())];
  log("look {} through pin {}", handle->node, pin.real.value);
  std::vector<ReferenceFs::HeldBlock> held = ref_.held(pin.ref);
  std::size_t block = 0;
  for (std::uint64_t first = 0, more = 1; more != 0;) {
    const auto part = fs().extents().of_pin(*handle->file, pin.real, first, 1 + below(4));
    require(part.has_value(), "no extents of the pin, errno {}", code_of(part));
    for (const PinnedExtent& extent : part->extents) {
      for (std::uint64_t at = 0; at < extent.length.value; at += kBlockSize, ++block) {
        require(block < held.size(), "too many pinned blocks");
        const PoolOffset place = extent.pool + ByteCount(at);
        std::string& bytes = held[block].bytes;
        const std::string_view there(reinterpret_cast<const char*>(medium_->at(place)),
                                     bytes.size());
        require(there == bytes, "block {} of the pin has wrong bytes", block);
        if (!pin.write || bytes.empty() || !chance(20)) continue;
        const std::size_t within = below(bytes.size());
        const std::string data = any_bytes(1 + below(bytes.size() - within));
        medium_->write(place + ByteCount(within), std::as_bytes(std::span(data)));
        ref_.write_held(pin.ref, block, within, data);
      }
    }
    first += part->extents.size();
    more = part->more ? 1 : 0;
  }
  require(block == held.size(), "{} pinned blocks instead of {}", block, held.size());
}

}  // namespace daxfs::testing
