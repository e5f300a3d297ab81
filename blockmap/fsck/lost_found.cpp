#include <fmt/format.h>
#include <sys/stat.h>

#include <chrono>
#include <optional>
#include <utility>

#include "base/crc32c.h"
#include "blockmap/dir_entry.h"
#include "blockmap/directory.h"
#include "blockmap/extent_map.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/fsck/tree.h"

namespace daxfs::fsck {
namespace {

// A directory that gets entries.
class OpenDirectory {
 public:
  static std::unique_ptr<OpenDirectory> open(Context& context, InodeNumber inode) {
    const auto record = context.inodes->load(inode);
    if (!record) return nullptr;
    auto map = ExtentMap::load(context.medium, *context.allocator, inode,
                               context.inodes->slot(inode), context.area());
    if (!map) return nullptr;
    std::unique_ptr<OpenDirectory> open(
        new OpenDirectory(context, inode, *record, std::move(*map)));
    auto directory = Directory::load(context.medium, *context.allocator, inode, open->map_);
    if (!directory) return nullptr;
    open->directory_ = std::move(*directory);
    return open;
  }

  InodeNumber number() const { return inode_; }
  const Directory& entries() const { return *directory_; }

  // Names `child`, whose record is committed with the name. False if there is no space.
  bool add(std::string_view name, InodeNumber child, pmem::InodeRecord& record, bool fresh) {
    Transaction tx;
    const pmem::InodeRecord before = record_;
    if (!directory_->prepare_insert(tx, record_, name.size())) {
      record_ = before;
      return false;
    }
    directory_->insert(tx, name, child, entry_type(record.mode));
    if (S_ISDIR(record.mode)) {
      ++record_.links;
      record.parent = inode_.value;
    }
    context_.inodes->stage(tx, inode_, record_);
    if (fresh) {
      pmem::InodeSlot slot{};
      slot.record = record;
      seal(slot.record, pmem::kInodeCrcBytes);
      tx.write_object(context_.inodes->slot(child), slot);
    } else {
      context_.inodes->stage(tx, child, record);
    }
    context_.commit(tx);
    return true;
  }

 private:
  OpenDirectory(Context& context, InodeNumber inode, const pmem::InodeRecord& record, ExtentMap map)
      : context_(context), inode_(inode), record_(record), map_(std::move(map)) {}

  Context& context_;
  const InodeNumber inode_;
  pmem::InodeRecord record_;
  ExtentMap map_;
  std::unique_ptr<Directory> directory_;
};

class Reconnect {
 public:
  Reconnect(Context& context, Tree& tree) : context_(context), tree_(tree) {}

  void run() {
    tree_[kRootInode].reach = Reach::yes;
    tree_.for_each([&](InodeNumber inode, Seen& seen) {
      if (seen.kind == Kind::directory) break_loop_above(inode);
    });
    if (context_.blocked()) return;
    std::vector<InodeNumber> lost;
    tree_.for_each([&](InodeNumber inode, Seen& seen) {
      const bool wanted = !seen.is_orphan || seen.has_entries;
      if (inode != kRootInode && seen.names == 0 && wanted) lost.push_back(inode);
    });
    for (const InodeNumber inode : lost) connect(inode);
  }

 private:
  // Climbs until something is known. A directory that is met twice on the way is in a loop: its
  // name there is taken away, so that it can be connected elsewhere.
  void break_loop_above(InodeNumber inode) {
    std::vector<InodeNumber> path;
    InodeNumber at = inode;
    while (at.value != 0 && tree_[at].reach == Reach::unknown) {
      tree_[at].reach = Reach::visiting;
      path.push_back(at);
      at = InodeNumber(tree_[at].parent);
    }
    if (at.value != 0 && tree_[at].reach == Reach::visiting) {
      Seen& seen = tree_[at];
      if (context_.accept(Code::directory_loop, Severity::loss, name_of(at),
                          "the directory lies within itself; its name there is removed, it goes to "
                          "/lost+found")) {
        Batch batch(context_);
        const auto granules = context_.medium.load<pmem::DirEntryHeader>(seen.entry).granules;
        const std::vector<std::byte> zeroes(granules * pmem::kGranuleBytes);
        batch.write(seen.entry, zeroes);
        --seen.names;
        --tree_[InodeNumber(seen.parent)].subdirectories;
        seen.parent = 0;
      }
    }
    for (const InodeNumber n : path) tree_[n].reach = Reach::yes;  // or will be
  }

  void connect(InodeNumber inode) {
    auto record = context_.inodes->load(inode);
    if (!record) return;
    const bool is_directory = S_ISDIR(record->mode);
    const Finding finding{Code::unreachable, Severity::loss, name_of(inode),
                          fmt::format("no name leads to this {}; put into /lost+found as #{}",
                                      is_directory ? "directory" : "file", inode.value)};
    if (Severity::loss > context_.options.repair_up_to) {
      context_.accept({finding});
      return;
    }
    Seen& seen = tree_[inode];
    record->links = is_directory ? 2 + seen.subdirectories : 1;
    const auto home = add(inode, *record);
    if (!home) {
      context_.accept(Code::unreachable, Severity::fatal, name_of(inode),
                      "no name leads to it, and there is no space for a name in /lost+found; free "
                      "some (mount, remove a file) and run fsck.daxfs again");
      return;
    }
    context_.accept({finding});
    seen.names = 1;
    if (is_directory) {
      seen.parent = home->value;
      ++tree_[*home].subdirectories;
    }
  }

  // Where it was put.
  std::optional<InodeNumber> add(InodeNumber inode, pmem::InodeRecord& record) {
    if (!opened_) open_lost_found();
    // A full pool may have no block for lost+found, but room in the root directory.
    for (OpenDirectory* directory : {lost_found_.get(), root_.get()}) {
      if (directory == nullptr || directory->number() == inode) continue;
      std::string name = fmt::format("#{}", inode.value);
      for (unsigned i = 1; directory->entries().find(name); ++i) {
        name = fmt::format("#{}.{}", inode.value, i);
      }
      if (directory->add(name, inode, record, false)) return directory->number();
    }
    return std::nullopt;
  }

  void open_lost_found() {
    opened_ = true;
    root_ = OpenDirectory::open(context_, kRootInode);
    if (!root_) return;
    std::string name = "lost+found";
    for (unsigned i = 1;; ++i) {
      const auto entry = root_->entries().find(name);
      if (!entry) break;
      if (entry->type == DT_DIR) {
        lost_found_ = OpenDirectory::open(context_, entry->inode);
        return;
      }
      name = fmt::format("lost+found.{}", i);
    }
    make_lost_found(name);
  }

  void make_lost_found(const std::string& name) {
    const auto inode = context_.inodes->allocate();
    if (!inode) return;
    pmem::InodeRecord record{};
    record.generation = context_.inodes->next_generation(*inode);
    record.links = 2;
    record.mode = S_IFDIR | 0700;
    record.atime_ns = record.mtime_ns = record.ctime_ns = record.btime_ns =
        std::chrono::duration_cast<std::chrono::nanoseconds>(
            std::chrono::system_clock::now().time_since_epoch())
            .count();
    if (!root_->add(name, *inode, record, true)) {
      context_.inodes->release(*inode);
      return;
    }
    lost_found_ = OpenDirectory::open(context_, *inode);
    ++tree_[kRootInode].subdirectories;
    Seen seen;
    seen.kind = Kind::directory;
    seen.parent = kRootInode.value;
    seen.names = 1;
    seen.reach = Reach::yes;
    tree_[*inode] = seen;
  }

  Context& context_;
  Tree& tree_;
  bool opened_ = false;
  std::unique_ptr<OpenDirectory> root_;
  std::unique_ptr<OpenDirectory> lost_found_;  // null: no space for it
};

}  // namespace

void reconnect(Context& context, Tree& tree) { Reconnect(context, tree).run(); }

}  // namespace daxfs::fsck
