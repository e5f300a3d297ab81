#include <fmt/format.h>
#include <sys/stat.h>

#include "base/crc32c.h"
#include "blockmap/fsck/passes.h"
#include "blockmap/fsck/tree.h"

namespace daxfs::fsck {
namespace {

void check_links(Context& context, Tree& tree) {
  Batch batch(context);
  tree.for_each([&](InodeNumber inode, Seen& seen) {
    auto record = context.inodes->load(inode);
    if (!record) return;
    std::vector<Finding> found;
    const auto wrong = [&](Code code, std::string text) {
      found.push_back({code, Severity::repairable, name_of(inode), std::move(text)});
    };
    std::uint32_t links = seen.names;
    if (seen.kind == Kind::directory) {
      const bool orphan = record->links == 0 && seen.names == 0 && inode != kRootInode;
      links = orphan ? 0 : 2 + seen.subdirectories;
      const std::uint64_t parent = inode == kRootInode ? kRootInode.value : seen.parent;
      if (parent != 0 && record->parent != parent) {
        wrong(Code::parent, fmt::format("says that its parent is inode {}, but lies in inode {}; "
                                        "corrected",
                                        record->parent, parent));
        record->parent = parent;
      }
    }
    if (record->links != links) {
      wrong(Code::links, fmt::format("says {} links, but has {}; corrected", record->links, links));
      record->links = links;
    }
    if (!context.accept(found)) return;
    seal(*record, pmem::kInodeCrcBytes);
    batch.write_object(context.inodes->slot(inode), *record);
  });
}

}  // namespace

void check_tree(Context& context) {
  Tree tree(context.inodes->capacity());
  check_directories(context, tree);
  if (context.blocked() || context.cancelled()) return;
  reconnect(context, tree);
  if (context.blocked() || context.cancelled()) return;
  check_links(context, tree);
}

}  // namespace daxfs::fsck
