// A small tree in memory to be damaged, and what a repair has to leave alone.
#pragma once

#include <string>

#include "blockmap/dir_entry.h"
#include "blockmap/fsck/fsck.h"
#include "blockmap/layout.h"
#include "blockmap/volume/check.h"
#include "blockmap/volume/detach.h"
#include "blockmap/xattr.h"
#include "tests/unit/catch.h"
#include "tests/unit/test_volume.h"

namespace daxfs::test {

struct FsckFixture : SmallTree {
  FsckFixture() {
    witness = create(*volume, sub, "witness", S_IFREG | 0644);
    fill(witness, {0, 1, 5});
    fill(file, {0, 2, 4, 6, 8});  // more than the slots in the inode
    volume->close_clean();
  }

  // A file's blocks say whose they are.
  void fill(OpenInode& inode, const std::vector<std::uint64_t>& blocks) {
    map_blocks(*volume, inode, blocks);
    inode.record.size = (blocks.back() + 1) * kBlockSize;
    commit_record(*volume, inode);
    for (const std::uint64_t block : blocks) {
      medium->write(offset_of(*inode.map->run_at(FileBlock(block), BlockCount(1)).pool),
                    content(inode, block));
    }
  }
  static std::vector<std::byte> content(const OpenInode& inode, std::uint64_t block) {
    return std::vector<std::byte>(kBlockSize, std::byte(inode.number.value * 16 + block + 1));
  }

  PoolOffset slot(const OpenInode& inode) const { return volume->inodes().slot(inode.number); }
  PoolOffset extent_slot(const OpenInode& inode, std::size_t index) const {
    return slot(inode) +
           ByteCount(offsetof(pmem::InodeSlot, extents) + index * sizeof(pmem::ExtentRecord));
  }
  PoolBlock first_block(const OpenInode& inode) const {
    return inode.map->physical(to_end(FileBlock(0))).front().start;
  }

  template <class T>
  void put(PoolOffset at, const T& object) {
    medium->store(at, std::as_bytes(std::span(&object, 1)));
  }
  // Changes a record and fixes its checksum up.
  template <class T, class Change>
  void forge(PoolOffset at, std::size_t covered, const Change& change) {
    auto record = medium->load<T>(at);
    change(record);
    seal(record, covered);
    medium->store(at, std::as_bytes(std::span(&record, 1)));
  }
  template <class Change>
  void forge_record(const OpenInode& inode, const Change& change) {
    forge<pmem::InodeRecord>(slot(inode), pmem::kInodeCrcBytes, change);
  }
  template <class Change>
  void forge_extent(const OpenInode& inode, std::size_t index, const Change& change) {
    forge<pmem::ExtentRecord>(extent_slot(inode, index), sizeof(pmem::ExtentRecord), change);
  }
  // A name that the directory has already, which no operation would insert: another one of its
  // length is, and its letters are changed. The directory fits into its first block.
  void add_name_again(OpenInode& directory, std::string_view name, InodeNumber inode) {
    const std::string other(name.size(), '?');
    add_name(directory, other, inode, DT_REG);
    for (unsigned granule = 0; granule < pmem::kGranulesPerBlock; ++granule) {
      const PoolOffset at = granule_offset(first_block(directory), granule);
      if (!is_sound_entry(*medium, directory.number, first_block(directory), granule) ||
          name_at(*medium, at) != other) {
        continue;
      }
      auto header = medium->load<pmem::DirEntryHeader>(at);
      header.crc = entry_crc(directory.number, header, name);
      put(at, header);
      medium->store(at + ByteCount(sizeof header), std::as_bytes(std::span(name)));
      return;
    }
    FAIL("the name that was inserted is not in the directory's first block");
  }
  void zero(PoolOffset at, std::uint64_t length) { medium->zero(at, ByteCount(length)); }

  fsck::Report run(fsck::Severity up_to = fsck::Severity::loss) {
    fsck::Options options;
    options.repair_up_to = up_to;
    auto report = fsck::check_and_repair(*medium, "test.pool", options);
    INFO((report ? std::string() : report.error().text));
    REQUIRE(report);
    return std::move(*report);
  }

  static bool has(const fsck::Report& report, fsck::Code code, fsck::Severity severity) {
    bool found = false;
    for (const fsck::Finding& f : report.findings) {
      UNSCOPED_INFO(f.object << ": " << f.text << " [" << to_string(f.severity) << ", "
                             << to_string(f.code) << "]");
      found = found || (f.code == code && f.severity == severity);
    }
    return found;
  }

  // Finds it, repairs it, and then nothing is left; a repair that loses something is not made by a
  // safe run. What else was found is the consequence.
  fsck::Report require_repaired(fsck::Code code, fsck::Severity severity) {
    if (severity == fsck::Severity::loss) {
      const fsck::Report safe = run(fsck::Severity::repairable);
      REQUIRE(safe.left != 0);
    }
    const fsck::Report report = run();
    REQUIRE(has(report, code, severity));
    REQUIRE(report.left == 0);
    const fsck::Report again = run();
    REQUIRE_FALSE(has(again, code, severity));
    REQUIRE(again.findings.empty());
    const CheckReport verdict = check_volume(*medium, "test.pool");
    for (const std::string& error : verdict.errors) UNSCOPED_INFO(error);
    REQUIRE(verdict.ok());
    check_content(witness, {0, 1, 5});
    return report;
  }

  // The file has these blocks with its own content, by its inode number.
  void check_content(const OpenInode& inode, const std::vector<std::uint64_t>& blocks) {
    const auto now = open_volume(*medium);
    OpenInode found = open_inode(*now, inode.number);
    for (const std::uint64_t block : blocks) {
      const auto pool = found.map->run_at(FileBlock(block), BlockCount(1)).pool;
      INFO("inode " << inode.number.value << ", block " << block);
      REQUIRE(pool);
      const auto want = content(inode, block);
      REQUIRE(std::memcmp(medium->at(*pool), want.data(), want.size()) == 0);
    }
    now->close_clean();
  }
  bool in_use(const OpenInode& inode) {
    return medium->load<pmem::InodeRecord>(slot(inode)).mode != 0;
  }
  // What a path of names leads to.
  std::optional<InodeNumber> find(const std::vector<std::string>& path) {
    const auto now = open_volume(*medium);
    InodeNumber at = kRootInode;
    for (const std::string& name : path) {
      const OpenInode directory = open_inode(*now, at);
      const auto entry = directory.directory->find(name);
      if (!entry) {
        now->close_clean();
        return std::nullopt;
      }
      at = entry->inode;
    }
    now->close_clean();
    return at;
  }
  static std::string lost_name(const OpenInode& inode) {
    return "#" + std::to_string(inode.number.value);
  }

  OpenInode witness;
};

}  // namespace daxfs::test
