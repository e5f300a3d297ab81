#include "blockmap/fsck/inspect_inode.h"
#include "blockmap/fsck/passes.h"

namespace daxfs::fsck {

void check_inodes(Context& context) {
  context.for_each_inode("inodes", [&](InodeNumber inode) {
    const PoolOffset place = context.inodes->slot(inode);
    const InodePlan plan = inspect_inode(context.medium, context.area(), inode, place);
    if (context.accept(plan.findings)) apply(context, plan, place);
  });
}

}  // namespace daxfs::fsck
