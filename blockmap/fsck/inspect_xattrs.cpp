#include "blockmap/fsck/inspect_xattrs.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/crc32c.h"
#include "blockmap/acl.h"
#include "blockmap/fsck/bit_repair.h"
#include "blockmap/fsck/context.h"
#include "blockmap/layout.h"
#include "blockmap/volume/inode_walk.h"
#include "blockmap/xattr.h"

namespace daxfs::fsck {
namespace {

// A list that cannot be is nothing that the kernel could be given, but may tell a person something.
// Its name becomes another one of the same length, so that everything stays in its place.
constexpr std::string_view kListPrefix = "system.posix_acl_";
constexpr std::string_view kAsidePrefix = "trusted.bad__acl_";
static_assert(kListPrefix.size() == kAsidePrefix.size());

std::string aside(std::string_view list) {
  return std::string(kAsidePrefix) + std::string(list.substr(kListPrefix.size()));
}

class Inspector {
 public:
  Inspector(const Medium& medium, PoolRange area, InodeNumber inode,
            const pmem::InodeRecord& record)
      : medium_(medium), area_(area), inode_(inode) {
    plan_.record = record;
  }

  XattrsPlan run() {
    const pmem::InodeRecord& record = plan_.record;
    const auto attributes = load_xattrs(medium_, inode_, record, area_);
    if (attributes && (record.xattr_block != 0 || record.xattr_bytes == 0)) {
      check_acls(*attributes);
    } else if (correct_bit_of_run()) {
      found(Code::xattrs, Severity::repairable,
            "one bit of its extended attributes was wrong; corrected");
    } else {
      remove_all();
      found(Code::xattrs, Severity::loss, "its extended attributes are damaged; removed");
    }
    return std::move(plan_);
  }

 private:
  void found(Code code, Severity severity, std::string text) {
    plan_.findings.push_back({code, severity, name_of(inode_), std::move(text)});
  }

  void remove_all() {
    plan_.record.xattr_block = 0;
    plan_.record.xattr_bytes = 0;
    plan_.record_changed = true;
  }

  PoolOffset start() const { return offset_of(PoolBlock(plan_.record.xattr_block)); }
  std::vector<std::byte> image() const {
    std::vector<std::byte> out(plan_.record.xattr_bytes);
    std::memcpy(out.data(), medium_.at(start()), out.size());
    return out;
  }

  void check_acls(const XattrMap& attributes) {
    pmem::InodeRecord& record = plan_.record;
    const AclFaults faults = find_acl_faults(attributes, record.mode);
    if (!faults.invalid.empty()) return set_aside(attributes, faults.invalid);
    if (!faults.out_of_step) return;
    // The list is what the kernel goes by, for all but the owner.
    record.mode = static_cast<std::uint16_t>((record.mode & ~mode_t{ACCESSPERMS}) | faults.mode);
    plan_.record_changed = true;
    found(Code::acl, Severity::repairable,
          fmt::format("its mode is not that of its access control list; set to {:o}",
                      record.mode & mode_t{ALLPERMS}));
  }

  void set_aside(const XattrMap& attributes, const std::vector<std::string_view>& lists) {
    pmem::InodeRecord& record = plan_.record;
    for (const std::string_view list : lists) {
      if (attributes.contains(aside(list))) {
        remove_all();
        return found(Code::acl, Severity::loss,
                     fmt::format("has an impossible access control list, twice; its extended "
                                 "attributes are removed"));
      }
    }
    std::vector<std::byte> changed = image();
    for (const std::string_view list : lists) {
      const std::size_t at = place_of(changed, list);
      std::memcpy(changed.data() + at, kAsidePrefix.data(), kAsidePrefix.size());
      add_fix(changed, at, kAsidePrefix.size());
      found(Code::acl, Severity::loss,
            fmt::format("has an impossible access control list; {} is now {}", list, aside(list)));
    }
    pmem::XattrHeader header;
    std::memcpy(&header, changed.data(), sizeof header);
    header.crc = 0;
    std::memcpy(changed.data(), &header, sizeof header);
    header.crc = sealed_crc(changed);
    std::memcpy(changed.data(), &header, sizeof header);
    add_fix(changed, 0, sizeof header);
    if (std::ranges::find(lists, kAccessAcl) == lists.end() || S_ISLNK(record.mode)) return;
    // The group's bits were the mask's: what the group itself could do is not known.
    record.mode = static_cast<std::uint16_t>(record.mode & ~mode_t{S_IRWXG});
    plan_.record_changed = true;
  }

  // Of the attribute's name. It is there: load_xattrs() has found it.
  static std::size_t place_of(std::span<const std::byte> run, std::string_view name) {
    std::size_t at = sizeof(pmem::XattrHeader);
    for (;;) {
      std::uint16_t name_length = 0;
      std::uint32_t value_length = 0;
      std::memcpy(&name_length, run.data() + at, sizeof name_length);
      std::memcpy(&value_length, run.data() + at + 4, sizeof value_length);
      at += 8;
      const std::string_view here(reinterpret_cast<const char*>(run.data() + at), name_length);
      if (here == name) return at;
      at += name_length + value_length;
    }
  }

  void add_fix(std::span<const std::byte> run, std::size_t at, std::size_t length) {
    const auto part = run.subspan(at, length);
    plan_.fixes.push_back({start() + ByteCount(at), {part.begin(), part.end()}});
  }

  bool correct_bit_of_run() {
    const pmem::InodeRecord& record = plan_.record;
    if (record.xattr_block == 0 || record.xattr_bytes < sizeof(pmem::XattrHeader) ||
        record.xattr_bytes > kMaxXattrBytes ||
        !lies_within(area_, record.xattr_block, xattr_run(record).count.value)) {
      return false;
    }
    std::vector<std::byte> run = image();
    std::uint32_t stored = 0;
    std::memcpy(&stored, run.data(), sizeof stored);
    std::memset(run.data(), 0, sizeof stored);
    const std::uint32_t difference = stored ^ sealed_crc(run);
    std::memcpy(run.data(), &stored, sizeof stored);
    const auto bit = find_flipped_bit(difference, run.size(), offsetof(pmem::XattrHeader, crc));
    if (!bit) return false;
    run[*bit / 8] ^= std::byte(1u << (*bit % 8));
    pmem::XattrHeader header;
    std::memcpy(&header, run.data(), sizeof header);
    if (header.magic != pmem::XattrHeader::kMagic || header.inode != inode_.value ||
        header.bytes != record.xattr_bytes) {
      return false;
    }
    add_fix(run, *bit / 8, 1);
    return true;
  }

  const Medium& medium_;
  const PoolRange area_;
  const InodeNumber inode_;
  XattrsPlan plan_;
};

}  // namespace

XattrsPlan inspect_xattrs(const Medium& medium, PoolRange data_area, InodeNumber inode,
                          const pmem::InodeRecord& record) {
  return Inspector(medium, data_area, inode, record).run();
}

}  // namespace daxfs::fsck
