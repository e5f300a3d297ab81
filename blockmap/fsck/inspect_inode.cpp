#include "blockmap/fsck/inspect_inode.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "base/crc32c.h"
#include "blockmap/fsck/bit_repair.h"
#include "blockmap/fsck/inspect_directory.h"
#include "blockmap/fsck/inspect_extents.h"
#include "blockmap/volume/inode_walk.h"
#include "blockmap/xattr.h"

namespace daxfs::fsck {
namespace {

constexpr std::uint64_t kMaxSize = std::numeric_limits<std::int64_t>::max();
// So many blocks are looked at to tell whether an inode without a record was a directory.
constexpr std::uint64_t kMostEvidence = 256;

class Inspector {
 public:
  Inspector(const Medium& medium, PoolRange area, InodeNumber inode, PoolOffset place)
      : medium_(medium),
        area_(area),
        inode_(inode),
        place_(place),
        slot_(load_slot(medium, place)) {}

  InodePlan run() {
    plan_.record = slot_.record;
    if (slot_.record.mode == 0 && is_empty_slot(slot_)) {
      if (inode_ == kRootInode) make_root("is missing");
      return std::move(plan_);
    }
    plan_.in_use = true;
    const bool sound = check_record();
    check_extents(!sound);
    if (!sound && !salvage()) {
      clear();
    } else {
      check_fields();
      check_xattrs();
      check_content(sound);
    }
    if (inode_ == kRootInode && (!plan_.in_use || !S_ISDIR(plan_.record.mode))) {
      make_root("is no directory");
    }
    return std::move(plan_);
  }

 private:
  void found(Code code, Severity severity, std::string text) {
    plan_.findings.push_back({code, severity, name_of(inode_), std::move(text)});
  }

  // Whether the record can be believed.
  bool check_record() {
    pmem::InodeRecord& record = plan_.record;
    if (record.mode != 0 && is_sealed(record, pmem::kInodeCrcBytes)) {
      return is_file_type(record.mode);
    }
    pmem::InodeRecord corrected = record;
    if (!correct_bit(corrected, pmem::kInodeCrcBytes) || !is_file_type(corrected.mode)) {
      return false;
    }
    record = corrected;
    plan_.record_changed = true;
    found(Code::inode_record, Severity::repairable, "one bit of its record was wrong; corrected");
    return true;
  }

  void check_extents(bool only_evidence) {
    ExtentsPlan extents =
        inspect_extents(medium_, area_, inode_, place_, plan_.record.extent_block, only_evidence);
    plan_.extents = std::move(extents.extents);
    plan_.chain = std::move(extents.chain);
    plan_.slots = std::move(extents.slots);
    plan_.headers = std::move(extents.headers);
    std::ranges::move(extents.findings, std::back_inserter(plan_.findings));
    if (extents.head != plan_.record.extent_block) {
      plan_.record.extent_block = extents.head;
      plan_.record_changed = true;
    }
  }

  // The record is lost, but extents name their inode: what they hold is kept.
  bool salvage() {
    if (plan_.extents.empty()) return false;
    pmem::InodeRecord record{};
    record.generation = slot_.record.generation;
    record.links = 1;
    record.extent_block = plan_.record.extent_block;
    record.atime_ns = slot_.record.atime_ns;
    record.mtime_ns = slot_.record.mtime_ns;
    record.ctime_ns = slot_.record.ctime_ns;
    record.btime_ns = slot_.record.btime_ns;
    record.mode = looks_like_directory() ? S_IFDIR | 0700 : S_IFREG | 0600;
    record.blocks = mapped();
    record.size = end_of_extents();
    plan_.record = record;
    plan_.record_changed = true;
    found(
        Code::inode_record, Severity::loss,
        fmt::format("its record is destroyed: owner, mode, size and attributes are lost; what its "
                    "extents hold is kept as a {} of root's",
                    S_ISDIR(record.mode) ? "directory" : "file"));
    return true;
  }

  void clear() {
    // A record in use never has the checksum 0.
    const bool was_free = slot_.record.crc == 0;
    plan_.findings.clear();
    if (was_free) {
      found(Code::free_slot, Severity::repairable, "the slot is free but not empty; emptied");
    } else {
      found(Code::inode_record, Severity::loss,
            "its record is destroyed, and no extent of it is left; removed");
    }
    take_slot_away();
  }

  void take_slot_away() {
    plan_.in_use = false;
    plan_.record = {};
    plan_.record.generation = slot_.record.generation;
    drop_extents();
    plan_.xattrs.clear();
  }

  void make_root(std::string_view why) {
    take_slot_away();
    plan_.in_use = true;
    plan_.record.generation = std::max(plan_.record.generation, 1u);
    plan_.record.links = 2;
    plan_.record.mode = S_IFDIR | 0755;
    plan_.record.parent = kRootInode.value;
    found(Code::root, Severity::loss,
          fmt::format("the root directory {}; an empty one is made, and what was in it goes to "
                      "/lost+found",
                      why));
  }

  void check_fields() {
    pmem::InodeRecord& record = plan_.record;
    const auto wrong = [&](Severity severity, std::string text) {
      found(Code::inode_fields, severity, std::move(text));
      plan_.record_changed = true;
    };
    if (record.size > kMaxSize) {
      record.size = end_of_extents();
      wrong(Severity::loss,
            fmt::format("has an impossible size; set to where its extents end, {}", record.size));
    }
    if ((record.flags & ~pmem::allowed_inode_flags(record.mode)) != 0) {
      record.flags = record.flags & pmem::allowed_inode_flags(record.mode);
      wrong(Severity::repairable, "has flags that are unknown, or not for its type; taken away");
    }
    const bool detach = record.detach_begin != 0 || record.detach_end != 0;
    if (record.detach_begin > record.detach_end || (detach && !S_ISREG(record.mode))) {
      record.detach_begin = 0;
      record.detach_end = 0;
      wrong(Severity::repairable, "says that an impossible truncation was interrupted; forgotten");
    }
  }

  void check_xattrs() {
    XattrsPlan xattrs = inspect_xattrs(medium_, area_, inode_, plan_.record);
    plan_.record = xattrs.record;
    plan_.record_changed = plan_.record_changed || xattrs.record_changed;
    plan_.xattrs = std::move(xattrs.fixes);
    std::ranges::move(xattrs.findings, std::back_inserter(plan_.findings));
  }

  void check_content(bool record_was_sound) {
    pmem::InodeRecord& record = plan_.record;
    if (S_ISDIR(record.mode)) check_directory(record_was_sound);
    if (!may_have_data() && (!plan_.extents.empty() || record.extent_block != 0)) {
      found(Code::extent_record, Severity::loss, "a pipe, socket or device has extents; removed");
      drop_extents();
    }
    if (record.blocks != mapped()) {
      // What is missing without a bad record in its place was overwritten by zeroes.
      if (!extents_were_lost()) {
        const bool missing = record.blocks > mapped();
        found(Code::block_count, missing ? Severity::loss : Severity::repairable,
              fmt::format("says {} blocks, but has {}{}; corrected", record.blocks, mapped(),
                          missing ? ": the others are lost and read as zeroes" : ""));
      }
      record.blocks = mapped();
      plan_.record_changed = true;
    }
    if (S_ISLNK(record.mode) && record.links != 0 && !is_sound_symlink()) {
      found(Code::symlink, Severity::loss, "the target of the symbolic link is lost; removed");
      take_slot_away();
    }
  }

  bool may_have_data() const {
    const std::uint16_t mode = plan_.record.mode;
    return S_ISREG(mode) || S_ISDIR(mode) || S_ISLNK(mode);
  }

  void drop_extents() {
    plan_.empty_slot = true;
    plan_.record_changed = true;
    plan_.record.extent_block = 0;
    plan_.extents.clear();
    plan_.chain.clear();
    plan_.slots.clear();
    plan_.headers.clear();
  }

  void check_directory(bool record_was_sound) {
    pmem::InodeRecord& record = plan_.record;
    const std::uint64_t size = end_of_extents();
    if (record.size == size) return;
    if (record_was_sound && !extents_were_lost()) {
      found(Code::directory_size, Severity::repairable,
            fmt::format("the directory says {} bytes, but has {}; corrected", record.size, size));
    }
    record.size = size;
    plan_.record_changed = true;
  }

  bool is_sound_symlink() const {
    const pmem::InodeRecord& record = plan_.record;
    if (record.size == 0 || record.size >= kBlockSize || plan_.extents.empty()) return false;
    const Extent& first = plan_.extents.front();
    if (first.file.value != 0 || first.unwritten) return false;
    const std::string_view target(reinterpret_cast<const char*>(medium_.at(first.pool)),
                                  record.size);
    return target.find('\0') == target.npos;
  }

  bool extents_were_lost() const {
    return std::ranges::any_of(plan_.findings, [](const Finding& f) {
      return f.code == Code::extent_record || f.code == Code::extent_overlap ||
             f.code == Code::extent_chain || f.code == Code::directory_extents;
    });
  }

  bool looks_like_directory() const {
    std::uint64_t seen = 0;
    for (const Extent& extent : plan_.extents) {
      for (std::uint64_t i = 0; i < extent.count.value; ++i) {
        if (++seen > kMostEvidence) return false;
        if (holds_sound_entry(medium_, inode_, extent.pool + BlockCount(i))) return true;
      }
    }
    return false;
  }

  std::uint64_t mapped() const {
    std::uint64_t blocks = 0;
    for (const Extent& extent : plan_.extents) blocks += extent.count.value;
    return blocks;
  }
  std::uint64_t end_of_extents() const {
    return plan_.extents.empty() ? 0
                                 : std::min(kMaxSize, offset_of(plan_.extents.back().end()).value);
  }

  const Medium& medium_;
  const PoolRange area_;
  const InodeNumber inode_;
  const PoolOffset place_;
  const pmem::InodeSlot slot_;
  InodePlan plan_;
};

}  // namespace

InodePlan inspect_inode(const Medium& medium, PoolRange data_area, InodeNumber inode,
                        PoolOffset place) {
  return Inspector(medium, data_area, inode, place).run();
}

void apply(Context& context, const InodePlan& plan, PoolOffset place) {
  Batch batch(context);
  for (const auto& fix : plan.headers) batch.write_object(offset_of(fix.block), fix.header);
  for (const auto& fix : plan.slots) batch.write_object(fix.at, fix.record);
  if (!plan.xattrs.empty()) {
    batch.commit();
    Transaction tx;
    for (const auto& fix : plan.xattrs) tx.write(fix.at, fix.bytes);
    context.commit(tx);
  }
  if (!plan.record_changed) return;
  pmem::InodeSlot slot{};
  slot.record = plan.record;
  if (plan.in_use) seal(slot.record, pmem::kInodeCrcBytes);
  if (plan.empty_slot) {
    batch.write_object(place, slot);
  } else {
    batch.write_object(place, slot.record);
  }
}

}  // namespace daxfs::fsck
