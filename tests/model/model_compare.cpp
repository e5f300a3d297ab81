// The model run: mounting, and comparing what daxfs has with what the reference has.
#include <dirent.h>
#include <fcntl.h>

#include <algorithm>

#include "base/clock.h"
#include "blockmap/volume/check.h"
#include "tests/model/model_run.h"

namespace daxfs::testing {
namespace {

constexpr std::size_t kHistory = 40;
constexpr std::size_t kBlocksPerExtentBlock = 127;

std::uint64_t limbo_limit(const Volume& volume, std::uint32_t percent) {
  return bytes(volume.data_blocks()).value / 100 * percent / kBlockSize;
}

std::unique_ptr<HeapMedium> formatted(std::uint64_t size) {
  auto medium = std::make_unique<HeapMedium>(ByteCount(size));
  format_medium(*medium);
  return medium;
}

}  // namespace

MountOptions ModelRun::options_for(const Setup& setup) {
  MountOptions options = mount_options(setup.policy);
  options.limbo_limit_percent = setup.limbo_percent;
  return options;
}

ModelRun::ModelRun(const Setup& setup)
    : setup_(setup),
      random_(setup.seed),
      medium_(formatted(setup.pool_bytes)),
      mounted_(std::make_unique<Mounted>(*medium_, options_for(setup))),
      ref_(setup.policy, limbo_limit(*mounted_->volume, setup.limbo_percent)) {}

void ModelRun::run(std::size_t operations) {
  for (std::size_t i = 0; i < operations; ++i) {
    ++step_;
    started_ = file_time_now();
    step();
    if (step_ % 16 == 0) check_space();
    if (step_ % 256 == 0) check_everything();
  }
  check_everything();
}

void ModelRun::log_text(std::string text) {
  history_.push_back(fmt::format("{:6}  {}", step_, text));
  if (history_.size() > kHistory) history_.pop_front();
}

std::string ModelRun::history() const {
  std::string out;
  for (const std::string& line : history_) out += line + "\n";
  return out;
}

void ModelRun::agree(int real, int expected) {
  log("    -> {}", real == 0 ? "ok" : strerrorname_np(real));
  require(real == expected, "errno is {}, but should be {}", real, expected);
  if (real == ETXTBSY) ++seen_.refused;
}

bool ModelRun::no_space(int code, bool short_of_it, std::initializer_list<NodeId> unchanged) {
  if (code != ENOSPC) return false;
  log("    -> ENOSPC");
  ++seen_.no_space;
  require(short_of_it, "ENOSPC with {} blocks free", fs().reports().statistics().f_bfree);
  for (const NodeId id : unchanged) {
    check_attributes(id);
    if (ref_.node(id).is_regular()) check_content(id);
    if (ref_.node(id).is_directory()) check_directory(id);
  }
  return true;
}

bool ModelRun::short_of(std::uint64_t blocks) const {
  return mounted_->volume->allocator().free_blocks().value <
         blocks + 3 + blocks / kBlocksPerExtentBlock;
}

std::uint64_t ModelRun::longest_free_run() const {
  std::uint64_t longest = 0;
  for (const PoolRange& run : mounted_->volume->allocator().snapshot()) {
    longest = std::max(longest, run.count.value);
  }
  return longest;
}

void ModelRun::learn_zeroed(NodeId id) {
  Node& node = ref_.node(id);
  auto file = fs().files().open(node.real, O_RDONLY);
  require(file.has_value(), "node {}: open fails with errno {}", id, code_of(file));
  const auto all = fs().extents().of_range(**file, FileOffset(0), ByteCount(INT64_MAX), SIZE_MAX);
  require(all.has_value(), "node {}: extents fail with errno {}", id, code_of(all));
  for (const PinnedExtent& extent : all->extents) {
    const std::uint64_t first = extent.file.value / kBlockSize;
    const auto end = node.blocks.lower_bound(first + extent.length.value / kBlockSize);
    for (auto it = node.blocks.lower_bound(first); !extent.unwritten && it != end; ++it) {
      it->second.written = true;
    }
  }
  fs().files().release(std::move(*file));
}

void ModelRun::check_attributes(NodeId id) {
  if (!ref_.exists(id)) return;
  Node& node = ref_.node(id);
  const auto got = fs().attributes().get(node.real);
  require(got.has_value(), "node {}: no attributes, errno {}", id, code_of(got));
  const struct stat& st = *got;
  require(st.st_ino == node.real.value, "node {}: inode {}", id, st.st_ino);
  require(st.st_mode == node.mode, "node {}: mode {:o} instead of {:o}", id, st.st_mode, node.mode);
  require(st.st_nlink == node.links, "node {}: {} links instead of {}", id, st.st_nlink,
          node.links);
  require(st.st_uid == node.uid && st.st_gid == node.gid, "node {}: owner {}:{} instead of {}:{}",
          id, st.st_uid, st.st_gid, node.uid, node.gid);
  require(st.st_rdev == node.rdev, "node {}: device {} instead of {}", id, st.st_rdev, node.rdev);
  if (!node.is_directory()) {
    require(static_cast<std::uint64_t>(st.st_size) == node.size, "node {}: size {} instead of {}",
            id, st.st_size, node.size);
    require(static_cast<std::uint64_t>(st.st_blocks) == node.blocks.size() * 8,
            "node {}: {} blocks instead of {}", id, st.st_blocks / 8, node.blocks.size());
  }
  const auto check_time = [&](const char* which, const timespec& time, std::int64_t& last,
                              ReferenceFs::Moved& moved) {
    const std::int64_t now = from_timespec(time);
    const bool fresh = now >= started_ && now <= file_time_now();
    switch (moved) {
      case ReferenceFs::Moved::no:
        require(now == last, "node {}: {} went from {} to {}", id, which, last, now);
        break;
      case ReferenceFs::Moved::maybe:
        require(now == last || fresh, "node {}: {} is {}, was {}", id, which, now, last);
        break;
      case ReferenceFs::Moved::now:
        require(fresh, "node {}: {} is {}, the operation began at {}", id, which, now, started_);
        break;
    }
    last = now;
    moved = ReferenceFs::Moved::no;
  };
  check_time("mtime", st.st_mtim, node.mtime, node.mtime_moved);
  check_time("ctime", st.st_ctim, node.ctime, node.ctime_moved);
}

void ModelRun::check_content(NodeId id) {
  const Node& node = ref_.node(id);
  auto opened = fs().files().open(node.real, O_RDONLY);
  require(opened.has_value(), "node {}: open fails with errno {}", id, code_of(opened));
  OpenFile& file = **opened;
  // Which blocks there are, exactly.
  auto expected = node.blocks.begin();
  std::uint64_t from = 0;
  for (bool more = true; more;) {
    const auto part =
        fs().extents().of_range(file, FileOffset(from), ByteCount(INT64_MAX - from), 1 + below(50));
    require(part.has_value(), "node {}: extents fail with errno {}", id, code_of(part));
    for (const PinnedExtent& extent : part->extents) {
      for (std::uint64_t at = 0; at < extent.length.value; at += kBlockSize, ++expected) {
        const std::uint64_t block = (extent.file.value + at) / kBlockSize;
        require(expected != node.blocks.end() && expected->first == block,
                "node {}: block {} should not be there", id, block);
        require(expected->second.written == !extent.unwritten, "node {}: block {} is {}", id, block,
                extent.unwritten ? "unwritten" : "written");
      }
      from = extent.file.value + extent.length.value;
    }
    more = part->more;
  }
  require(expected == node.blocks.end(), "node {}: block {} is missing", id,
          expected == node.blocks.end() ? 0 : expected->first);
  for (const auto& [block, content] : node.blocks) {
    const std::uint64_t offset = block * kBlockSize;
    const auto got = testing::read(fs(), file, offset, kBlockSize);
    require(got.has_value(), "node {}: read fails with errno {}", id, code_of(got));
    require(*got == ref_.read(id, offset, kBlockSize), "node {}: block {} has wrong bytes", id,
            block);
  }
  fs().files().release(std::move(*opened));
}

void ModelRun::check_directory(NodeId id) {
  const Node& node = ref_.node(id);
  std::set<std::string> names;
  const Status listed =
      fs().names().read_directory(node.real, 0, [&](const Names::DirectoryEntry& entry) {
        const std::string name(entry.name);
        require(names.insert(name).second, "node {}: \"{}\" is listed twice", id, name);
        const auto expected = ref_.lookup(id, name);
        require(expected.has_value(), "node {}: \"{}\" should not be there", id, name);
        require(real(*expected) == entry.inode, "node {}: \"{}\" has another inode", id, name);
        require(IFTODT(ref_.node(*expected).mode) == entry.type, "node {}: \"{}\" has type {}", id,
                name, entry.type);
        return true;
      });
  require(listed.has_value(), "node {}: cannot be listed, errno {}", id, code_of(listed));
  require(names.size() == node.entries.size() + 2, "node {}: {} names instead of {}", id,
          names.size(), node.entries.size() + 2);
}

void ModelRun::check_space() {
  const struct statvfs st = fs().reports().statistics();
  const GateCounts gate = fs().gate().totals();
  require(st.f_bfree == mounted_->volume->allocator().free_blocks().value, "statfs: wrong free");
  require(st.f_blocks == mounted_->volume->data_blocks().value, "statfs: wrong total");
  require(gate.limbo.value == ref_.limbo_blocks(), "{} blocks in limbo instead of {}",
          gate.limbo.value, ref_.limbo_blocks());
  require(gate.long_pins + gate.short_pins == ref_.pins(), "{} pins instead of {}",
          gate.long_pins + gate.short_pins, ref_.pins());
  require(gate.pinned_bytes.value == ref_.pinned_blocks() * kBlockSize,
          "{} bytes pinned instead of {}", gate.pinned_bytes.value,
          ref_.pinned_blocks() * kBlockSize);
  require(gate.waiting == 0, "{} requests wait", gate.waiting);
  if (gate.limbo.value > 0) ++seen_.limbo;
}

void ModelRun::check_everything() {
  check_space();
  std::uint64_t data_blocks = 0;
  for (const auto& [id, node] : ref_.nodes()) {
    check_attributes(id);
    if (node.is_directory()) {
      check_directory(id);
      data_blocks += static_cast<std::uint64_t>(fs().attributes().get(node.real)->st_blocks) / 8;
    } else {
      data_blocks += node.blocks.size();
    }
    if (node.is_regular()) check_content(id);
    if (S_ISLNK(node.mode)) {
      const auto target = fs().names().read_symlink(node.real);
      require(target && *target == node.target, "node {}: wrong link target", id);
    }
    const auto names = fs().xattrs().list(node.real);
    require(names && names->size() == node.xattrs.size(), "node {}: wrong attribute names", id);
    for (const auto& [name, value] : node.xattrs) {
      const auto got = fs().xattrs().get(node.real, name);
      require(got && *got == value, "node {}: wrong value of \"{}\"", id, name);
    }
  }
  const CheckReport report = check_volume(*medium_, "pool");
  require(report.ok(), "check: {}", report.ok() ? "" : report.errors.front());
  // The partition law: what is not an inode's is free or in limbo, to the block.
  const std::uint64_t free = fs().reports().statistics().f_bfree;
  const std::uint64_t limbo = fs().gate().totals().limbo.value;
  require(free + limbo == report.free_blocks, "{} free and {} in limbo, but inodes leave {}", free,
          limbo, report.free_blocks);
  require(report.data_blocks == data_blocks, "files have {} blocks instead of {}",
          report.data_blocks, data_blocks);
}

}  // namespace daxfs::testing
