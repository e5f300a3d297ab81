// Access control lists on a damaged or forged pool.
#include <sys/stat.h>

#include "blockmap/acl.h"
#include "tests/model/mounted.h"
#include "tests/unit/fsck_fixture.h"

using namespace daxfs;
using namespace daxfs::test;
using fsck::Code;
using fsck::Severity;

namespace {

// u::rw-,u:1:rwx,g::r--,m::r--,o::---
const std::string kList(
    "\2\0\0\0\1\0\6\0\xff\xff\xff\xff\2\0\7\0\1\0\0\0\4\0\4\0\xff\xff\xff\xff"
    "\x10\0\4\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff",
    44);
const std::string kAccess(kAccessAcl), kDefault(kDefaultAcl);

struct AclFixture : FsckFixture {
  // As a crash of nothing could leave it.
  void give(OpenInode& inode, const XattrMap& attributes) {
    std::vector<PoolRange> released;
    REQUIRE(replace_xattrs(*medium, volume->allocator(), inode.number, inode.record, attributes,
                           released));
    forge_record(inode, [&](auto& record) {
      record.xattr_block = inode.record.xattr_block;
      record.xattr_bytes = inode.record.xattr_bytes;
    });
  }
  void set_mode(OpenInode& inode, mode_t mode) {
    forge_record(inode, [&](auto& record) { record.mode = static_cast<std::uint16_t>(mode); });
  }
  pmem::InodeRecord record_of(const OpenInode& inode) {
    return medium->load<pmem::InodeRecord>(slot(inode));
  }
  XattrMap attributes_of(const OpenInode& inode) {
    const auto found = load_xattrs(*medium, inode.number, record_of(inode), volume->data_area());
    REQUIRE(found);
    return *found;
  }
};

}  // namespace

TEST_CASE_METHOD(AclFixture, "fsck: sound access control lists are no finding") {
  give(file, {{kAccess, kList}, {"user.x", "x"}});
  set_mode(file, S_IFREG | 0640);
  give(sub, {{kAccess, kList}, {kDefault, kList}});
  set_mode(sub, S_IFDIR | 0640);
  CHECK(run().findings.empty());
  CHECK(check_volume(*medium, "test.pool").ok());
}

TEST_CASE_METHOD(AclFixture, "fsck: a mode that is not the list's becomes that") {
  give(file, {{kAccess, kList}});
  set_mode(file, S_IFREG | 04666);
  CHECK_FALSE(check_volume(*medium, "test.pool").ok());
  require_repaired(Code::acl, Severity::repairable);
  CHECK(record_of(file).mode == (S_IFREG | 04640));
  CHECK(attributes_of(file) == XattrMap{{kAccess, kList}});
}

TEST_CASE_METHOD(AclFixture,
                 "fsck: an impossible list is set aside, and the group may do nothing") {
  std::string bad = kList;
  bad[4] = 2;
  give(file, {{kAccess, bad}, {"user.x", "x"}, {"user.a", std::string(5000, 'a')}});
  set_mode(file, S_IFREG | 0664);
  CHECK_FALSE(check_volume(*medium, "test.pool").ok());
  require_repaired(Code::acl, Severity::loss);
  CHECK(record_of(file).mode == (S_IFREG | 0604));
  CHECK(attributes_of(file) == XattrMap{{"trusted.bad__acl_access", bad},
                                        {"user.x", "x"},
                                        {"user.a", std::string(5000, 'a')}});
}

TEST_CASE_METHOD(AclFixture, "fsck: a default list where none belongs is set aside") {
  give(file, {{kDefault, kList}});
  set_mode(file, S_IFREG | 0664);
  require_repaired(Code::acl, Severity::loss);
  CHECK(record_of(file).mode == (S_IFREG | 0664));
  CHECK(attributes_of(file) == XattrMap{{"trusted.bad__acl_default", kList}});
}

TEST_CASE_METHOD(AclFixture, "fsck: both lists impossible, one of them for the second time") {
  give(sub, {{kAccess, "?"}, {kDefault, ""}});
  SECTION("both are set aside") {
    require_repaired(Code::acl, Severity::loss);
    CHECK(attributes_of(sub) ==
          XattrMap{{"trusted.bad__acl_access", "?"}, {"trusted.bad__acl_default", ""}});
  }
  SECTION("there is one aside already") {
    give(sub, {{kAccess, "?"}, {"trusted.bad__acl_access", "!"}});
    require_repaired(Code::acl, Severity::loss);
    CHECK(attributes_of(sub).empty());
  }
}

TEST_CASE_METHOD(AclFixture, "a mount meets impossible access control lists: EUCLEAN, no guess") {
  // Every order and size that parse() refuses is refused here, too (acl_test.cpp).
  const std::string bad = GENERATE(as<std::string>(), "", "?", kList.substr(0, 43),
                                   kList + kList.substr(36), kList.substr(0, 4) + kList.substr(12));
  give(file, {{kAccess, bad}, {"user.x", "x"}});
  give(sub, {{kDefault, bad}});
  volume.reset();
  testing::Mounted mounted(*medium, testing::mount_options(PinPolicy::refuse));
  Filesystem& fs = *mounted.fs;
  const auto code = [](const auto& result) { return result ? 0 : result.error().code; };
  CHECK(code(fs.xattrs().get(file.number, kAccess)) == EUCLEAN);
  CHECK(code(fs.xattrs().get(file.number, "user.x")) == 0);
  AttributeChange change;
  change.mode = 0600;
  CHECK(code(testing::set_attributes(fs, file.number, change)) == EUCLEAN);
  CHECK(code(fs.names().make_node(sub.number, "new", S_IFREG | 0600, 0, {})) == EUCLEAN);
  CHECK(code(fs.names().make_unnamed(sub.number, 0600, true, {})) == EUCLEAN);
  CHECK(code(fs.names().lookup(sub.number, "new")) == ENOENT);
  // The way out: the list is removed, or another one set.
  CHECK(code(fs.xattrs().remove(file.number, kAccess, testing::kRoot)) == 0);
  CHECK(code(fs.xattrs().set(sub.number, kDefault, kList, 0, testing::kRoot)) == 0);
  CHECK(code(testing::set_attributes(fs, file.number, change)) == 0);
  const auto made = testing::number_of(
      fs, fs.names().make_node(sub.number, "new", S_IFREG | 0666, 0, testing::kRoot));
  REQUIRE(made);
  CHECK(code(fs.xattrs().get(*made, kAccess)) == 0);
  mounted.fs->unmount();
}
