#include <absl/container/flat_hash_map.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <bit>
#include <limits>
#include <string_view>

#include "blockmap/dir_entry.h"
#include "blockmap/extent_map.h"
#include "blockmap/extent_record.h"
#include "blockmap/fsck/inspect_directory.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/fsck/tree.h"

namespace daxfs::fsck {
namespace {

using pmem::DirEntryHeader;

constexpr std::uint64_t kMaxBlocks = std::numeric_limits<std::uint32_t>::max();

class DirectoryCheck {
 public:
  DirectoryCheck(Context& context, Tree& tree, InodeNumber inode)
      : context_(context), medium_(context.medium), tree_(tree), inode_(inode), batch_(context) {}

  void run(pmem::InodeRecord record) {
    auto map = ExtentMap::load(medium_, *context_.allocator, inode_, context_.inodes->slot(inode_),
                               context_.area());
    if (!map) return;
    check_extents(record, *map);
    map->for_each({FileBlock(0), BlockCount(kMaxBlocks)}, [&](const Extent& extent) {
      if (extent.unwritten) return;
      for (std::uint64_t i = 0; i < extent.count.value; ++i) {
        check_block(extent.pool + BlockCount(i));
      }
    });
  }

 private:
  bool found(Code code, Severity severity, std::string text) {
    return context_.accept(code, severity, name_of(inode_), std::move(text));
  }

  // Entries lie in written blocks whose number fits a cookie.
  void check_extents(pmem::InodeRecord& record, ExtentMap& map) {
    std::vector<Extent> wrong;
    map.for_each(kWholeFile, [&](const Extent& extent) {
      if (extent.unwritten || extent.end().value > kMaxBlocks) wrong.push_back(extent);
    });
    for (const Extent& extent : wrong) {
      if (!found(Code::directory_extents, extent.unwritten ? Severity::repairable : Severity::loss,
                 fmt::format("the directory has {} at its block {}; removed",
                             extent.unwritten ? "unwritten blocks" : "impossible blocks",
                             extent.file.value))) {
        continue;
      }
      Transaction tx;
      std::vector<PoolRange> removed;
      map.remove(tx, {extent.file, extent.count}, 1, removed);
      const auto last = map.last();
      record.blocks = map.mapped().value;
      record.size = last ? offset_of(last->end()).value : 0;
      context_.inodes->stage(tx, inode_, record);
      context_.commit(tx);
    }
  }

  void check_block(PoolBlock block) {
    const DirectoryBlockPlan plan = inspect_directory_block(medium_, inode_, block);
    for (const InodePlan::ByteFix& fix : plan.corrections) {
      if (found(Code::entry_damaged, Severity::repairable,
                "one bit of an entry was wrong; corrected")) {
        batch_.write_object(fix.at, fix.value);
      }
    }
    batch_.commit();  // the names are read below
    if (plan.destroyed != 0 &&
        found(
            Code::entry_damaged, Severity::loss,
            fmt::format("{} bytes of entries in block {} are destroyed; removed (what they named "
                        "goes to /lost+found)",
                        static_cast<unsigned>(std::popcount(plan.destroyed)) * pmem::kGranuleBytes,
                        block.value))) {
      for (std::uint64_t bits = plan.destroyed; bits != 0; bits &= bits - 1) {
        zero(granule_offset(block, static_cast<unsigned>(std::countr_zero(bits))), 1);
      }
    }
    for (const unsigned granule : plan.entries) {
      // Not, if it needed a correction that was not allowed.
      if (is_sound_entry(medium_, inode_, block, granule)) {
        check_entry(granule_offset(block, granule));
      }
    }
  }

  void zero(PoolOffset at, unsigned granules) {
    static constexpr std::array<std::byte, pmem::kGranuleBytes> kZeroes{};
    for (unsigned i = 0; i < granules; ++i) {
      batch_.write(at + ByteCount(i * pmem::kGranuleBytes), kZeroes);
    }
  }

  void remove_entry(PoolOffset at) { zero(at, medium_.load<DirEntryHeader>(at).granules); }

  // Names can be anything but the terminal's.
  static std::string quoted(std::string_view name) {
    std::string out = "\"";
    for (const char c : name) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '"' || c == '\\') {
        out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
      } else {
        out += c;
      }
    }
    return out + '"';
  }

  void check_entry(PoolOffset at) {
    const auto header = medium_.load<DirEntryHeader>(at);
    const std::string_view name = name_at(medium_, at);
    const InodeNumber target(header.inode);
    const auto wrong = [&](Code code, Severity severity, std::string_view text) {
      return found(code, severity, fmt::format("the entry {} {}", quoted(name), text));
    };
    if (!context_.inodes->valid(target) || tree_[target].kind == Kind::free) {
      if (wrong(Code::entry_dangling, Severity::loss,
                fmt::format("refers to inode {}, which is not in use; removed", target.value))) {
        remove_entry(at);
      }
      return;
    }
    const auto [earlier, added] = names_.try_emplace(name, target);
    if (!added) {
      const bool same = earlier->second == target;
      if (wrong(Code::entry_doubled, same ? Severity::repairable : Severity::loss,
                same ? "is there twice; one removed"
                     : fmt::format("is there twice, the second time for inode {}; that is removed "
                                   "(without another name it goes to /lost+found)",
                                   target.value))) {
        remove_entry(at);
      }
      return;
    }
    tree_[inode_].has_entries = true;
    const auto record = context_.inodes->load(target);
    if (!record) return;
    if (S_ISDIR(record->mode) && !keep_directory_name(at, target, record->parent, wrong)) return;
    check_type(at, header, record->mode, wrong);
    ++tree_[target].names;
  }

  // A directory has one name: the one where its parent pointer leads, else the first.
  template <class Wrong>
  bool keep_directory_name(PoolOffset at, InodeNumber target, std::uint64_t parent,
                           const Wrong& wrong) {
    Seen& seen = tree_[target];
    if (target == kRootInode) {
      if (wrong(Code::directory_names, Severity::repairable, "names the root directory; removed")) {
        remove_entry(at);
      }
      return false;
    }
    if (seen.parent != 0) {
      if (!wrong(Code::directory_names, Severity::repairable,
                 fmt::format("is a further name of directory {}; one is kept", target.value))) {
        return false;
      }
      if (seen.parent == parent || inode_.value != parent) {
        remove_entry(at);
        return false;
      }
      remove_entry(seen.entry);
      --seen.names;
      --tree_[InodeNumber(seen.parent)].subdirectories;
    }
    seen.parent = inode_.value;
    seen.entry = at;
    ++tree_[inode_].subdirectories;
    return true;
  }

  template <class Wrong>
  void check_type(PoolOffset at, DirEntryHeader header, std::uint16_t mode, const Wrong& wrong) {
    if (header.type == entry_type(mode)) return;
    if (!wrong(Code::entry_type, Severity::repairable,
               fmt::format("has another type than inode {}; corrected", header.inode))) {
      return;
    }
    header.type = entry_type(mode);
    header.crc = entry_crc(inode_, header, name_at(medium_, at));
    batch_.write_object(at, header);
  }

  Context& context_;
  Medium& medium_;
  Tree& tree_;
  const InodeNumber inode_;
  Batch batch_;
  absl::flat_hash_map<std::string_view, InodeNumber> names_;  // they lie in the pool
};

}  // namespace

void check_directories(Context& context, Tree& tree) {
  const InodeTable& inodes = *context.inodes;
  for (std::uint64_t n = 1; n <= inodes.capacity(); ++n) {
    const auto record = inodes.load(InodeNumber(n));
    if (!record) continue;
    Seen& seen = tree[InodeNumber(n)];
    seen.kind = S_ISDIR(record->mode) ? Kind::directory : Kind::file;
    seen.is_orphan = record->links == 0;
  }
  context.for_each_inode("directories", [&](InodeNumber inode) {
    const auto record = inodes.load(inode);
    if (record && S_ISDIR(record->mode)) DirectoryCheck(context, tree, inode).run(*record);
  });
}

}  // namespace daxfs::fsck
