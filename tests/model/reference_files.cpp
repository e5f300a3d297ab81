// The reference filesystem: contents of files, and pins.
#include <algorithm>
#include <cerrno>

#include "tests/model/reference_fs.h"

namespace daxfs::testing {
namespace {

std::uint64_t end_block(std::uint64_t end) { return blocks_for(ByteCount(end)).value; }

}  // namespace

std::string ReferenceFs::read(NodeId id, std::uint64_t offset, std::uint64_t length) const {
  const Node& node = nodes_.at(id);
  if (offset >= node.size) return {};
  std::string out(std::min(length, node.size - offset), '\0');
  const std::uint64_t end = offset + out.size();
  for (auto it = node.blocks.lower_bound(offset / kBlockSize);
       it != node.blocks.end() && it->first * kBlockSize < end; ++it) {
    if (it->second.bytes.empty()) continue;
    const std::uint64_t start = it->first * kBlockSize;
    const std::uint64_t from = std::max(offset, start);
    const std::uint64_t to = std::min(end, start + kBlockSize);
    out.replace(from - offset, to - from, it->second.bytes, from - start, to - from);
  }
  return out;
}

void ReferenceFs::write(NodeId id, std::uint64_t offset, std::string_view data,
                        bool drop_privileges) {
  if (data.empty()) return;
  Node& node = nodes_.at(id);
  const std::uint64_t end = offset + data.size();
  for (std::uint64_t b = offset / kBlockSize; b < end_block(end); ++b) {
    const auto [it, added] = node.blocks.try_emplace(b);
    if (added) it->second = fresh(true);
    Block& block = it->second;
    block.written = true;
    if (block.bytes.empty()) block.bytes.assign(kBlockSize, '\0');
    const std::uint64_t start = b * kBlockSize;
    const std::uint64_t from = std::max(offset, start);
    const std::uint64_t to = std::min(end, start + kBlockSize);
    block.bytes.replace(from - start, to - from, data.substr(from - offset, to - from));
  }
  node.size = std::max(node.size, end);
  if (drop_privileges) drop_setid(node);
  touch(node, true);
}

void ReferenceFs::zero(Node& node, std::uint64_t offset, std::uint64_t end) {
  if (offset >= end) return;
  for (auto it = node.blocks.lower_bound(offset / kBlockSize);
       it != node.blocks.end() && it->first * kBlockSize < end; ++it) {
    if (it->second.bytes.empty()) continue;
    const std::uint64_t start = it->first * kBlockSize;
    const std::uint64_t from = std::max(offset, start) - start;
    const std::uint64_t to = std::min(end, start + kBlockSize) - start;
    std::fill(it->second.bytes.begin() + static_cast<std::ptrdiff_t>(from),
              it->second.bytes.begin() + static_cast<std::ptrdiff_t>(to), '\0');
  }
}

void ReferenceFs::grow(Node& node, std::uint64_t size) {
  if (size <= node.size) return;
  node.size = size;
  touch(node, true);
}

void ReferenceFs::allocate(NodeId id, std::uint64_t offset, std::uint64_t length, bool keep_size) {
  Node& node = nodes_.at(id);
  node.ctime_moved = node.mtime_moved = Moved::maybe;
  for (std::uint64_t b = offset / kBlockSize; b < end_block(offset + length); ++b) {
    const auto [it, added] = node.blocks.try_emplace(b);
    if (added) it->second = fresh(false);
  }
  if (!keep_size) grow(node, offset + length);
}

void ReferenceFs::zero_range(NodeId id, std::uint64_t offset, std::uint64_t length,
                             bool keep_size) {
  allocate(id, offset, length, keep_size);
  Node& node = nodes_.at(id);
  zero(node, offset, offset + length);
  touch(node, true);
}

Status ReferenceFs::punch(NodeId id, std::uint64_t offset, std::uint64_t length) {
  Node& node = nodes_.at(id);
  const std::uint64_t end = offset + length;
  const std::uint64_t first = end_block(offset);
  const std::uint64_t last = end / kBlockSize;
  if (first < last) {
    if (const Status allowed = judge(node, first, last); !allowed) return allowed;
    detach(node, first, last);
  }
  zero(node, offset, end);
  touch(node, true);
  return {};
}

Result<std::uint64_t> ReferenceFs::seek(NodeId id, std::uint64_t from, bool data) const {
  const Node& node = nodes_.at(id);
  if (from >= node.size) return fail(ENXIO);
  const auto is_data = [&](std::uint64_t b) {
    const auto it = node.blocks.find(b);
    return it != node.blocks.end() && it->second.written;
  };
  if (!data) {
    std::uint64_t b = from / kBlockSize;
    while (is_data(b)) ++b;
    return std::min(std::max(from, b * kBlockSize), node.size);
  }
  for (auto it = node.blocks.lower_bound(from / kBlockSize); it != node.blocks.end(); ++it) {
    if (it->first * kBlockSize >= node.size) break;
    if (it->second.written) return std::max(from, it->first * kBlockSize);
  }
  return fail(ENXIO);
}

std::uint64_t ReferenceFs::holes(NodeId id, std::uint64_t offset, std::uint64_t length) const {
  const Node& node = nodes_.at(id);
  std::uint64_t count = 0;
  for (std::uint64_t b = offset / kBlockSize; b < end_block(offset + length); ++b) {
    if (!node.blocks.contains(b)) ++count;
  }
  return count;
}

// --- the gate, pins ---

Status ReferenceFs::judge(const Node& node, std::uint64_t first, std::uint64_t end) const {
  std::uint64_t pinned = 0;
  for (auto it = node.blocks.lower_bound(first); it != node.blocks.end() && it->first < end; ++it) {
    if (pinned_.contains(it->second.token)) ++pinned;
  }
  if (pinned == 0) return {};
  if (policy_ == PinPolicy::defer && limbo_.size() + pinned <= limbo_limit_) return {};
  return fail(ETXTBSY);
}

void ReferenceFs::detach(Node& node, std::uint64_t first, std::uint64_t end) {
  for (auto it = node.blocks.lower_bound(first); it != node.blocks.end() && it->first < end;) {
    if (pinned_.contains(it->second.token)) {
      std::string bytes = std::move(it->second.bytes);
      if (bytes.empty()) bytes.assign(kBlockSize, '\0');
      const std::uint64_t start = it->first * kBlockSize;
      bytes.resize(std::clamp(node.size, start, start + kBlockSize) - start);
      limbo_[it->second.token] = std::move(bytes);
    }
    it = node.blocks.erase(it);
  }
}

std::uint64_t ReferenceFs::pinned_blocks() const {
  std::uint64_t count = 0;
  for (const auto& [id, pin] : pins_) count += pin.tokens.size();
  return count;
}

Result<ReferenceFs::Pin> ReferenceFs::pin(NodeId id, std::uint64_t offset, std::uint64_t length,
                                          bool write, bool allocate) {
  if (!allocate && holes(id, offset, length) > 0) return fail(ENXIO);
  Node& node = nodes_.at(id);
  PinState state{.node = id, .first_block = offset / kBlockSize, .write = write, .tokens = {}};
  bool changed = false;
  for (std::uint64_t b = offset / kBlockSize; b < end_block(offset + length); ++b) {
    const auto [it, added] = node.blocks.try_emplace(b);
    if (added) it->second = fresh(true);
    changed = changed || added || !it->second.written;
    it->second.written = true;
    state.tokens.push_back(it->second.token);
    ++pinned_[it->second.token];
  }
  if (changed && node.ctime_moved == Moved::no) node.ctime_moved = Moved::maybe;
  if (allocate) grow(node, offset + length);
  pins_[++last_pin_] = std::move(state);
  return last_pin_;
}

void ReferenceFs::unpin(Pin pin) {
  const auto found = pins_.find(pin);
  for (const Token token : found->second.tokens) {
    const auto count = pinned_.find(token);
    if (--count->second > 0) continue;
    pinned_.erase(count);
    limbo_.erase(token);
  }
  if (found->second.write && nodes_.contains(found->second.node)) {
    touch(nodes_.at(found->second.node), true);
  }
  pins_.erase(found);
}

std::vector<ReferenceFs::HeldBlock> ReferenceFs::held(Pin pin) const {
  const PinState& state = pins_.at(pin);
  std::vector<HeldBlock> out;
  for (std::size_t i = 0; i < state.tokens.size(); ++i) {
    if (const auto gone = limbo_.find(state.tokens[i]); gone != limbo_.end()) {
      out.push_back({false, gone->second});
    } else {
      const std::uint64_t start = (state.first_block + i) * kBlockSize;
      out.push_back({true, read(state.node, start, kBlockSize)});
    }
  }
  return out;
}

void ReferenceFs::write_held(Pin pin, std::size_t block, std::size_t within,
                             std::string_view data) {
  const PinState& state = pins_.at(pin);
  if (const auto gone = limbo_.find(state.tokens[block]); gone != limbo_.end()) {
    gone->second.replace(within, data.size(), data);
    return;
  }
  Block& there = nodes_.at(state.node).blocks.at(state.first_block + block);
  if (there.bytes.empty()) there.bytes.assign(kBlockSize, '\0');
  there.bytes.replace(within, data.size(), data);
}

}  // namespace daxfs::testing
