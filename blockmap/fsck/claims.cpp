#include "blockmap/fsck/claims.h"

#include <utility>

#include "blockmap/extent_record.h"
#include "blockmap/xattr.h"

namespace daxfs::fsck {

std::optional<Claimant> load_claimant(Context& context, InodeNumber inode) {
  const auto record = context.inodes->load(inode);
  if (!record) return std::nullopt;
  auto map = ExtentMap::load(context.medium, *context.allocator, inode, context.inodes->slot(inode),
                             context.area());
  if (!map) return std::nullopt;
  return Claimant{inode, *record, std::move(*map)};
}

void for_each_claimant(Context& context, std::string_view phase,
                       absl::FunctionRef<void(Claimant&)> visit) {
  context.for_each_inode(phase, [&](InodeNumber inode) {
    if (auto claimant = load_claimant(context, inode)) visit(*claimant);
  });
}

void for_each_claim(Context& context, std::string_view phase,
                    absl::FunctionRef<void(PoolRange, const Claimant*)> visit) {
  for (const PoolRange& run : context.index_runs) visit(run, nullptr);
  for_each_claimant(context, phase, [&](Claimant& c) {
    for (const PoolBlock block : c.map.chain()) visit({block, BlockCount(1)}, &c);
    if (const PoolRange run = xattr_run(c.record); !run.empty()) visit(run, &c);
    for (const PoolRange& run : c.map.physical(kWholeFile)) {
      visit(run, &c);
    }
  });
}

}  // namespace daxfs::fsck
