#include "blockmap/fsck/finding.h"

namespace daxfs::fsck {

std::string_view to_string(Severity severity) {
  switch (severity) {
    case Severity::harmless:
      return "harmless";
    case Severity::repairable:
      return "repairable";
    case Severity::loss:
      return "data-loss";
    case Severity::fatal:
      break;
  }
  return "unrepairable";
}

std::string_view to_string(Code code) {
  switch (code) {
    case Code::superblock:
      return "superblock";
    case Code::journal_pending:
      return "journal-pending";
    case Code::journal_lane:
      return "journal-lane";
    case Code::pool_state:
      return "pool-state";
    case Code::chunk_index:
      return "chunk-index";
    case Code::inode_record:
      return "inode-record";
    case Code::inode_fields:
      return "inode-fields";
    case Code::free_slot:
      return "free-slot";
    case Code::root:
      return "root";
    case Code::extent_record:
      return "extent-record";
    case Code::extent_overlap:
      return "extent-overlap";
    case Code::extent_chain:
      return "extent-chain";
    case Code::block_count:
      return "block-count";
    case Code::xattrs:
      return "xattrs";
    case Code::acl:
      return "acl";
    case Code::symlink:
      return "symlink";
    case Code::pin_blocks:
      return "pin-blocks";
    case Code::pin_record:
      return "pin-record";
    case Code::shared_blocks:
      return "shared-blocks";
    case Code::directory_extents:
      return "directory-extents";
    case Code::directory_size:
      return "directory-size";
    case Code::entry_damaged:
      return "entry-damaged";
    case Code::entry_dangling:
      return "entry-dangling";
    case Code::entry_type:
      return "entry-type";
    case Code::entry_doubled:
      return "entry-doubled";
    case Code::directory_names:
      return "directory-names";
    case Code::directory_loop:
      return "directory-loop";
    case Code::unreachable:
      return "unreachable";
    case Code::parent:
      return "parent";
    case Code::links:
      return "links";
    case Code::orphan:
      return "orphan";
    case Code::detach:
      return "detach";
    case Code::medium:
      break;
  }
  return "medium";
}

}  // namespace daxfs::fsck
