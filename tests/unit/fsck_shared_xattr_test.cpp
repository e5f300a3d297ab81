// Extended attributes that lie where other metadata is.
#include "tests/unit/fsck_fixture.h"

using namespace daxfs;
using namespace daxfs::test;
using fsck::Code;
using fsck::Severity;

namespace {

// The second block of one file's attributes is all of another's. Both are sound: a value may hold
// any bytes, also those.
struct SharedXattrs : FsckFixture {
  SharedXattrs() {
    set(witness, inner);
    const PoolRange own = xattr_run(witness.record);
    const std::string image(reinterpret_cast<const char*>(medium->at(own.start)),
                            witness.record.xattr_bytes);
    outer = {{"user.a", std::string(kBlockSize - kBeforeValue, 'v') + image}};
    set(file, outer);
    witness.record.xattr_block = file.record.xattr_block + 1;
    commit_record(*volume, witness);
    free_ranges(*volume, {own});
    REQUIRE(attributes_of(file) == outer);
    REQUIRE(attributes_of(witness) == inner);
  }

  void set(OpenInode& inode, const XattrMap& attributes) {
    std::vector<PoolRange> released;
    REQUIRE(replace_xattrs(*medium, volume->allocator(), inode.number, inode.record, attributes,
                           released));
    commit_record(*volume, inode);
  }
  XattrMap attributes_of(const OpenInode& inode) {
    const auto attributes = load_xattrs(
        *medium, inode.number, medium->load<pmem::InodeRecord>(slot(inode)), volume->data_area());
    REQUIRE(attributes);
    return *attributes;
  }
  // All that is free becomes a file's.
  void fill_up() {
    OpenInode filler = create(*volume, root, "filler", S_IFREG | 0600);
    std::vector<PoolRange> runs;
    REQUIRE(volume->allocator().allocate(volume->allocator().free_blocks(), PoolBlock(0), runs));
    REQUIRE(runs.size() <= pmem::kInlineExtents);
    Transaction tx;
    REQUIRE(filler.map->reserve(filler.record, runs.size()));
    FileBlock at(0);
    for (const PoolRange& run : runs) {
      filler.map->insert(tx, {at, run.start, run.count, false});
      at += run.count;
    }
    filler.record.blocks = filler.map->mapped().value;
    filler.record.size = offset_of(at).value;
    volume->inodes().stage(tx, filler.number, filler.record);
    REQUIRE(volume->journal().commit(tx));
    REQUIRE(volume->allocator().free_blocks().value == 0);
  }

  // Header of the run, of the item, and the name.
  static constexpr std::size_t kBeforeValue = sizeof(pmem::XattrHeader) + 8 + 6;
  const XattrMap inner{{"user.b", "precious"}};
  XattrMap outer;
};

}  // namespace

TEST_CASE_METHOD(SharedXattrs, "fsck: attributes that share a block get a copy") {
  const fsck::Report report = run(Severity::repairable);
  CHECK(has(report, Code::shared_blocks, Severity::repairable));
  CHECK(report.left == 0);
  CHECK(attributes_of(file) == outer);
  CHECK(attributes_of(witness) == inner);
  CHECK(run().findings.empty());
}

TEST_CASE_METHOD(SharedXattrs, "fsck: attributes without room for a copy are a loss that is said") {
  fill_up();
  // A run that may lose nothing leaves them where they are.
  const fsck::Report safe = run(Severity::repairable);
  CHECK(has(safe, Code::shared_blocks, Severity::loss));
  CHECK(safe.left == 1);
  CHECK(attributes_of(witness) == inner);

  require_repaired(Code::shared_blocks, Severity::loss);
  CHECK(attributes_of(file) == outer);
  CHECK(attributes_of(witness).empty());
}
