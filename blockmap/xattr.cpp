#include "blockmap/xattr.h"

#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "base/crc32c.h"

namespace daxfs {
namespace {

using pmem::XattrHeader;

struct ItemHeader {
  std::uint16_t name_length;
  std::uint16_t reserved;
  std::uint32_t value_length;
};
static_assert(sizeof(ItemHeader) == 8);

std::uint32_t payload_crc(XattrHeader header, std::span<const std::byte> payload) {
  header.crc = 0;
  return sealed_crc(payload, crc32c(std::as_bytes(std::span(&header, 1))));
}

void append(std::vector<std::byte>& out, std::span<const std::byte> data) {
  out.insert(out.end(), data.begin(), data.end());
}

// Takes `length` bytes off the front.
std::string take(std::span<const std::byte>& from, std::size_t length) {
  std::string out(reinterpret_cast<const char*>(from.data()), length);
  from = from.subspan(length);
  return out;
}

std::size_t encoded_bytes(const XattrMap& attributes) {
  std::size_t total = sizeof(XattrHeader);
  for (const auto& [name, value] : attributes) {
    total += sizeof(ItemHeader) + name.size() + value.size();
  }
  return total;
}

}  // namespace

PoolRange xattr_run(const pmem::InodeRecord& record) {
  if (record.xattr_block == 0) return {};
  return {PoolBlock(record.xattr_block), blocks_for(ByteCount(record.xattr_bytes))};
}

Result<XattrMap> load_xattrs(const Medium& medium, InodeNumber inode,
                             const pmem::InodeRecord& record, PoolRange data_area) {
  if (record.xattr_block == 0) return XattrMap{};
  const PoolRange run = xattr_run(record);
  if (record.xattr_bytes < sizeof(XattrHeader) || record.xattr_bytes > kMaxXattrBytes ||
      run.start < data_area.start || run.start >= data_area.end() ||
      run.count > data_area.end() - run.start) {
    return fail(EUCLEAN);
  }
  const auto header = medium.load<XattrHeader>(offset_of(run.start));
  if (header.magic != XattrHeader::kMagic || header.inode != inode.value ||
      header.bytes != record.xattr_bytes) {
    return fail(EUCLEAN);
  }
  std::span payload(medium.at(offset_of(run.start) + ByteCount(sizeof header)),
                    header.bytes - sizeof header);
  if (header.crc != payload_crc(header, payload)) return fail(EUCLEAN);

  XattrMap attributes;
  for (std::uint64_t i = 0; i < header.count; ++i) {
    ItemHeader item;
    if (payload.size() < sizeof item) return fail(EUCLEAN);
    std::memcpy(&item, payload.data(), sizeof item);
    payload = payload.subspan(sizeof item);
    if (item.name_length == 0 || payload.size() < item.name_length ||
        payload.size() - item.name_length < item.value_length) {
      return fail(EUCLEAN);
    }
    std::string name = take(payload, item.name_length);
    std::string value = take(payload, item.value_length);
    if (!attributes.emplace(std::move(name), std::move(value)).second) return fail(EUCLEAN);
  }
  if (!payload.empty()) return fail(EUCLEAN);
  return attributes;
}

Status replace_xattrs(Medium& medium, Allocator& allocator, InodeNumber inode,
                      pmem::InodeRecord& record, const XattrMap& attributes,
                      std::vector<PoolRange>& released) {
  const PoolRange old = xattr_run(record);
  if (attributes.empty()) {
    record.xattr_block = 0;
    record.xattr_bytes = 0;
    if (!old.empty()) released.push_back(old);
    return {};
  }
  const std::size_t total = encoded_bytes(attributes);
  if (total > kMaxXattrBytes) return fail(ENOSPC);
  std::vector<std::byte> image;
  image.reserve(total);
  XattrHeader header{};
  append(image, std::as_bytes(std::span(&header, 1)));
  for (const auto& [name, value] : attributes) {
    if (name.empty() || name.size() > std::numeric_limits<std::uint16_t>::max()) {
      return fail(EINVAL);
    }
    const ItemHeader item{static_cast<std::uint16_t>(name.size()), 0,
                          static_cast<std::uint32_t>(value.size())};
    append(image, std::as_bytes(std::span(&item, 1)));
    append(image, std::as_bytes(std::span(name)));
    append(image, std::as_bytes(std::span(value)));
  }
  header.magic = XattrHeader::kMagic;
  header.inode = inode.value;
  header.bytes = total;
  header.count = attributes.size();
  header.crc = payload_crc(header, std::span(image).subspan(sizeof header));
  std::memcpy(image.data(), &header, sizeof header);

  const auto run = allocator.allocate_run(blocks_for(ByteCount(total)));
  if (!run) return std::unexpected(run.error());
  medium.write(offset_of(run->start), image);
  medium.fence();
  record.xattr_block = run->start.value;
  record.xattr_bytes = total;
  if (!old.empty()) released.push_back(old);
  return {};
}

Result<WrittenXattrs> WrittenXattrs::write(Medium& medium, Allocator& allocator, InodeNumber inode,
                                           const pmem::InodeRecord& record,
                                           const XattrMap& attributes) {
  pmem::InodeRecord changed = record;
  std::vector<PoolRange> released;
  if (const Status written =
          replace_xattrs(medium, allocator, inode, changed, attributes, released);
      !written) {
    return std::unexpected(written.error());
  }
  WrittenXattrs out(allocator, changed);
  if (const PoolRange run = xattr_run(changed); !run.empty()) out.unneeded_.push_back(run);
  return out;
}

WrittenXattrs::WrittenXattrs(WrittenXattrs&& other) noexcept
    : allocator_(other.allocator_),
      block_(other.block_),
      bytes_(other.bytes_),
      unneeded_(std::exchange(other.unneeded_, {})) {}

WrittenXattrs::~WrittenXattrs() {
  for (const PoolRange& range : unneeded_) (void)allocator_->free(range);
}

void WrittenXattrs::show_in(pmem::InodeRecord& record) {
  unneeded_.clear();
  if (const PoolRange old = xattr_run(record); !old.empty()) unneeded_.push_back(old);
  record.xattr_block = block_;
  record.xattr_bytes = bytes_;
}

}  // namespace daxfs
