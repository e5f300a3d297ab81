#include "blockmap/volume/check.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <memory>
#include <thread>

#include "blockmap/acl.h"
#include "blockmap/dir_entry.h"
#include "blockmap/directory.h"
#include "blockmap/extent_map.h"
#include "blockmap/volume/check_pin_records.h"
#include "blockmap/volume/volume.h"
#include "blockmap/xattr.h"

namespace daxfs {
namespace {

class Check {
 public:
  Check(Volume& volume, CheckReport& report)
      : volume_(volume), report_(report), seen_(volume.inodes().capacity() + 1) {}

  void run() {
    for_each_inode(
        [&](InodeNumber inode, const pmem::InodeRecord& record) { check_content(inode, record); });
    seen_[kRootInode.value].reach = Reach::yes;
    for_each_inode(
        [&](InodeNumber inode, const pmem::InodeRecord& record) { check_names(inode, record); });
    report_.free_blocks = volume_.allocator().free_blocks().value;
    report_.metadata_blocks =
        volume_.superblock().total_blocks - report_.free_blocks - report_.data_blocks;
  }

 private:
  enum class Reach : std::uint8_t { unknown, visiting, yes, no };
  struct Seen {
    std::uint64_t parent = 0;  // the directory that has a name for this directory
    std::uint32_t names = 0;
    std::uint32_t subdirectories = 0;
    Reach reach = Reach::unknown;
  };

  template <class Visit>
  void for_each_inode(const Visit& visit) {
    const InodeTable& inodes = volume_.inodes();
    for (std::uint64_t n = 1; n <= inodes.capacity(); ++n) {
      const auto record = inodes.load(InodeNumber(n));
      if (record) {
        visit(InodeNumber(n), *record);
      } else if (record.error().code != ENOENT) {
        error(InodeNumber(n), "checksum does not match");
      }
    }
  }

  void error(InodeNumber inode, const std::string& what) {
    report_.errors.push_back(fmt::format("inode {}: {}", inode.value, what));
  }

  void check_content(InodeNumber inode, const pmem::InodeRecord& record) {
    const bool is_directory = S_ISDIR(record.mode);
    if ((record.flags & ~pmem::allowed_inode_flags(record.mode)) != 0) {
      error(inode, "has flags that it cannot have");
    }
    ++(is_directory ? report_.directories : report_.files);
    const auto attributes = load_xattrs(volume_.medium(), inode, record, volume_.data_area());
    if (!attributes) {
      error(inode, "its extended attributes are damaged");
    } else if (const AclFaults faults = find_acl_faults(*attributes, record.mode); faults.any()) {
      error(inode, faults.out_of_step ? "its access control list and its mode differ"
                                      : "has an impossible access control list");
    }
    auto map = ExtentMap::load(volume_.medium(), volume_.allocator(), inode,
                               volume_.inodes().slot(inode), volume_.data_area());
    if (!map) return error(inode, "its extents are damaged");
    report_.data_blocks += map->mapped().value;
    if (record.blocks != map->mapped().value) {
      error(inode, fmt::format("says {} blocks, but has {}", record.blocks, map->mapped().value));
    }
    if (is_directory) check_directory(inode, record, *map);
  }

  void check_directory(InodeNumber inode, const pmem::InodeRecord& record, ExtentMap& map) {
    const auto last = map.last();
    const std::uint64_t size = last ? offset_of(last->end()).value : 0;
    if (record.size != size) {
      error(inode, fmt::format("the directory says {} bytes, but has {}", record.size, size));
    }
    const auto directory = Directory::load(volume_.medium(), volume_.allocator(), inode, map);
    if (!directory) return error(inode, "the directory is damaged");
    if (record.links == 0 && !(*directory)->empty()) {
      error(inode, "the directory is removed, but not empty");
    }
    std::uint64_t cookie = 0;
    while (const auto entry = (*directory)->next(cookie)) {
      cookie = entry->cookie;
      check_entry(inode, *entry);
    }
  }

  void check_entry(InodeNumber directory, const Directory::Entry& entry) {
    const auto entry_error = [&](const std::string& what) {
      error(directory, fmt::format("the entry \"{}\" {}", entry.name, what));
    };
    const auto record = volume_.inodes().load(entry.inode);
    if (!record) {
      return entry_error(fmt::format("refers to inode {}, which is not in use", entry.inode.value));
    }
    if (entry.type != entry_type(record->mode)) {
      entry_error(fmt::format("has another type than inode {}", entry.inode.value));
    }
    Seen& seen = seen_[entry.inode.value];
    ++seen.names;
    if (!S_ISDIR(record->mode)) return;
    ++seen_[directory.value].subdirectories;
    seen.parent = directory.value;
    if (record->parent != directory.value) {
      entry_error(fmt::format("is a directory whose parent says inode {}", record->parent));
    }
  }

  void check_names(InodeNumber inode, const pmem::InodeRecord& record) {
    const Seen& seen = seen_[inode.value];
    if (!S_ISDIR(record.mode)) {
      if (record.links != seen.names) {
        error(inode,
              fmt::format("says {} links, but {} names refer to it", record.links, seen.names));
      }
      return;
    }
    const std::uint32_t names = inode == kRootInode || record.links == 0 ? 0 : 1;
    if (seen.names != names) {
      error(inode, fmt::format("{} names refer to the directory instead of {}", seen.names, names));
    }
    if (record.links == 0) return;
    if (record.links != 2 + seen.subdirectories) {
      error(inode, fmt::format("says {} links, but is a directory with {} subdirectories",
                               record.links, seen.subdirectories));
    }
    if (inode == kRootInode && record.parent != kRootInode.value) {
      error(inode, "the root directory has a parent");
    }
    if (!reachable(inode)) error(inode, "the directory cannot be reached from the root");
  }

  // Climbs until something is known; a directory met twice on the way is part of a loop.
  bool reachable(InodeNumber inode) {
    std::vector<std::uint64_t> path;
    std::uint64_t at = inode.value;
    while (at != 0 && seen_[at].reach == Reach::unknown) {
      seen_[at].reach = Reach::visiting;
      path.push_back(at);
      at = seen_[at].parent;
    }
    const Reach found = at != 0 && seen_[at].reach == Reach::yes ? Reach::yes : Reach::no;
    for (const std::uint64_t n : path) seen_[n].reach = found;
    return seen_[inode.value].reach == Reach::yes;
  }

  Volume& volume_;
  CheckReport& report_;
  std::vector<Seen> seen_;  // by inode number
};

}  // namespace

CheckReport check_volume(Medium& medium, const std::string& name, const OwnerAlive& alive,
                         const PinLocked& locked) {
  CheckReport report;
  const auto volume =
      Volume::open(medium, name, true, std::thread::hardware_concurrency(), alive, locked);
  if (!volume) {
    report.errors.push_back(volume.error().text);
    return report;
  }
  Check(**volume, report).run();
  check_pin_records(**volume, report);
  return report;
}

}  // namespace daxfs
