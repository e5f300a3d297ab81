#include "tests/fuzz/small_pool.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include <string>

#include "blockmap/volume/check.h"
#include "src/options.h"
#include "tests/crash/reversible_medium.h"
#include "tests/fuzz/target.h"
#include "tests/model/mounted.h"

namespace daxfs::fuzz {
namespace {

constexpr ByteCount kPoolBytes(4 << 20);

constexpr const char* kMounts[] = {
    "direct,pin_policy=refuse",
    "direct,pin_policy=defer",
    "pin_policy=wait",
    "pin_policy=wait,wait_timeout=5ms,on_timeout=defer",
    "pin_policy=break,break_timeout=5ms",
    "pin_policy=break,longterm=lease",
    "pin_policy=ignore,unsafe_demo",
    "longterm=forbid,pin_policy=wait",
    "strictatime,pin_limit=64K,pin_policy=defer,limbo_limit=8K",
    "ro",
};

void populate(Filesystem& fs) {
  const auto file = [&](InodeNumber parent, const char* name, std::uint64_t expected) {
    const auto made = testing::number_of(
        fs, fs.names().make_node(parent, name, S_IFREG | 0666, 0, Caller{.uid = 0, .gid = 0}));
    require(made && made->value == expected, "the pool is not as described");
    return *made;
  };
  const auto filled = [&](InodeNumber inode, std::uint64_t offset, std::size_t length) {
    auto open = fs.files().open(inode, O_RDWR);
    require(open && testing::write(fs, **open, offset, std::string(length, 'x')), "no write");
    fs.files().release(std::move(*open));
  };
  const InodeNumber sparse = file(kRootInode, "f", kSparseFile);
  for (unsigned i = 0; i < 6; ++i) filled(sparse, 3 * i * kBlockSize, kBlockSize);
  auto open = fs.files().open(sparse, O_RDWR);
  require(
      open && fs.space().allocate(**open, FileOffset(30 * kBlockSize), ByteCount(40'000), false),
      "no fallocate");
  fs.files().release(std::move(*open));
  filled(file(kRootInode, "g", kDenseFile), 0, 100'000);
  const auto directory = testing::number_of(
      fs, fs.names().make_directory(kRootInode, "dir", 0777, Caller{.uid = 0, .gid = 0}));
  require(directory.has_value(), "no mkdir");
  filled(file(*directory, "h", kInnerFile), 0, 5000);
  require(
      testing::number_of(fs, fs.names().make_symlink(kRootInode, "link", "dir/h", {})).has_value(),
      "no symlink");
}

testing::ReversibleMedium& pristine_medium() {
  static testing::ReversibleMedium medium(kPoolBytes);
  static const testing::ReversibleMedium::Mark mark = [] {
    testing::format_medium(medium);
    testing::Mounted mounted(medium, testing::mount_options(PinPolicy::refuse));
    populate(*mounted.fs);
    mounted.fs->unmount();
    return medium.mark();
  }();
  medium.roll_back(mark);
  return medium;
}

void mounted_by(Input input, KernelRelay* relay,
                const std::function<void(Filesystem&, Input&)>& use) {
  spdlog::set_level(spdlog::level::off);
  const auto options =
      parse_mount_options(std::string("short_timeout=2ms,") + input.one_of(kMounts));
  require(options.has_value(), "mount options");
  Medium& medium = pristine_medium();
  {
    const testing::Mounted mounted(medium, *options, relay);
    use(*mounted.fs, input);
  }
  const CheckReport report = check_volume(medium, "pool");
  require(report.ok(), report.ok() ? "" : report.errors.front());
}

}  // namespace

void on_small_pool(Input input, const std::function<void(Filesystem&, Input&)>& use) {
  mounted_by(input, nullptr, use);
}

void on_small_pool(Input input, const std::function<void(Filesystem&, KernelRelay&, Input&)>& use) {
  KernelRelay relay;
  mounted_by(input, &relay,
             [&](Filesystem& filesystem, Input& choices) { use(filesystem, relay, choices); });
}

}  // namespace daxfs::fuzz
