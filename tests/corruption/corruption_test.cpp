// The campaign: random damage to populated pools. Each must be repaired to a state that mounts,
// passes a further check and can be read, or be refused with a reason; and what was not damaged is
// as it was.
//
//   DAXFS_CORRUPTIONS=100000 build/release/tests/tests_corruption     the long run
//   DAXFS_CORRUPTION_SEED=17 DAXFS_CORRUPTIONS=1 ...                  one of them again
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "blockmap/fsck/bit_repair.h"
#include "blockmap/fsck/fsck.h"
#include "blockmap/layout.h"
#include "blockmap/pin_record_scan.h"
#include "blockmap/volume/check.h"
#include "tests/corruption/damage.h"
#include "tests/corruption/image.h"
#include "tests/corruption/report_text.h"
#include "tests/model/mounted.h"
#include "tests/unit/catch.h"

namespace daxfs::corruption {
namespace {

std::uint64_t number_from(const char* variable, std::uint64_t usual) {
  const char* text = std::getenv(variable);
  return text == nullptr ? usual : std::strtoull(text, nullptr, 10);
}

struct Mistake : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Copies the image at a random moment: what a killed fsck leaves.
class Killed : public HeapMedium {
 public:
  Killed(const Medium& image, std::uint64_t calls) : HeapMedium(image.size()), calls_(calls) {
    std::memcpy(base_, image.at(PoolOffset(0)), size_.value);
  }
  void write(PoolOffset to, std::span<const std::byte> data) override {
    HeapMedium::write(to, data);
    count();
  }
  void zero(PoolOffset to, ByteCount length) override {
    HeapMedium::zero(to, length);
    count();
  }
  void store(PoolOffset to, std::span<const std::byte> data) override {
    HeapMedium::store(to, data);
    count();
  }
  std::unique_ptr<HeapMedium> left;  // null if it was done before

 private:
  void count() {
    if (calls_-- != 1) return;
    left = std::make_unique<HeapMedium>(size());
    left->write(PoolOffset(0), {base_, size_.value});
  }
  std::uint64_t calls_;
};

struct Tally {
  std::uint64_t clean = 0;
  std::uint64_t repaired = 0;
  std::uint64_t without_loss = 0;
  std::uint64_t refused = 0;
  std::uint64_t killed = 0;
  std::uint64_t intact_inodes = 0;
  std::uint64_t intact_pins = 0;
};

class Campaign {
 public:
  Campaign() {
    images_.push_back(make_small_image());
    images_.push_back(make_wide_image());
    images_.push_back(make_interrupted_image());
    for (const Image& image : images_) {
      pristine_.push_back(std::make_unique<HeapMedium>(image.medium->size()));
      pristine_.back()->write(PoolOffset(0),
                              {image.medium->at(PoolOffset(0)), image.medium->size().value});
      marks_.push_back(image.medium->mark());
    }
  }

  void run(std::uint64_t seed) {
    const std::size_t which = seed % images_.size();
    Image& image = images_[which];
    image.medium->roll_back(marks_[which]);
    Damage damage(image, seed);
    damage.inflict();
    try {
      one(image, damage, seed);
    } catch (const std::exception& error) {
      throw Mistake(
          fmt::format("seed {}, image {}: {}\n{}", seed, image.name, damage.text(), error.what()));
    }
  }

  const Tally& tally() const { return tally_; }

 private:
  fsck::Report repair(Medium& medium, fsck::Severity up_to) {
    fsck::Options options;
    options.repair_up_to = up_to;
    auto report = fsck::check_and_repair(medium, "pool", options);
    if (!report) throw Mistake("refused: " + report.error().text);
    return std::move(*report);
  }

  void one(Image& image, const Damage& damage, std::uint64_t seed) {
    Medium& medium = *image.medium;
    const bool unsure = both_superblocks_hit(image, damage);
    if (is_of_newer(medium)) return refuse_newer(medium);
    if (unsure) {
      const auto report = fsck::check_and_repair(medium, "pool", {});
      if (!report) {
        if (report.error().text.empty()) throw Mistake("refused without a reason");
        ++tally_.refused;
        return;
      }
    } else if (seed % 8 == 3) {
      after_a_kill(medium, seed);
    } else if (seed % 4 == 1) {
      repair(medium, fsck::Severity::repairable);
    }
    const fsck::Report report = repair(medium, fsck::Severity::loss);
    last_ = describe(report);
    if (report.left != 0) throw Mistake("not repaired:\n" + last_);
    count(report);

    const fsck::Report again = repair(medium, fsck::Severity::loss);
    if (!again.findings.empty()) {
      throw Mistake("not clean after the repair:\n" + last_ + "second run:\n" + describe(again));
    }
    verify(image, *pristine_[seed % images_.size()], damage, unsure);
  }

  void after_a_kill(Medium& medium, std::uint64_t seed) {
    Killed killed(medium, 1 + seed / 8 % 64);
    repair(killed, fsck::Severity::loss);
    if (!killed.left) return;
    ++tally_.killed;
    medium.write(PoolOffset(0), {killed.left->at(PoolOffset(0)), killed.left->size().value});
  }

  void count(const fsck::Report& report) {
    if (!report.damaged()) {
      ++tally_.clean;
    } else {
      ++tally_.repaired;
      if (report.count(fsck::Severity::loss) == 0) ++tally_.without_loss;
    }
  }

  static Bytes block_bytes(PoolBlock block, std::uint64_t length) {
    return {offset_of(block).value, offset_of(block).value + length};
  }

  // The state says, with a good checksum or but for one bit, that this daxfs must not touch the
  // pool.
  static bool is_of_newer(const Medium& medium) {
    auto state = medium.load<pmem::PoolState>(offset_of(kStateBlock));
    return (is_sealed(state) || fsck::correct_bit(state)) &&
           (state.incompatible & ~pmem::kKnownIncompatible) != 0;
  }

  void refuse_newer(Medium& medium) {
    const auto report = fsck::check_and_repair(medium, "pool", {});
    const auto volume = Volume::open(medium, "pool", false, 1);
    if (report || volume) throw Mistake("a newer daxfs has used it, and this one does, too");
    if (report.error().text.find("newer") == std::string::npos)
      throw Mistake("refused because: " + report.error().text);
    ++tally_.refused;
  }

  static bool both_superblocks_hit(const Image& image, const Damage& damage) {
    constexpr std::uint64_t kLength = sizeof(pmem::Superblock);
    return damage.touches(block_bytes(kSuperblockA, kLength)) &&
           damage.touches(block_bytes(superblock_b(*image.medium), kLength));
  }

  // Whether the damage may have taken an inode that is not damaged itself: where it is told where
  // inodes outside of the region are.
  static bool may_lose(const Image& image, const Damage& damage, std::uint64_t inode) {
    if (inode <= image.region_inodes) return false;
    if (damage.touches(block_bytes(kStateBlock, sizeof(pmem::PoolState)))) return true;
    for (const PoolBlock block : image.index_blocks) {
      if (damage.touches(block_bytes(block, kBlockSize))) return true;
    }
    return false;
  }

  // `unsure`: nobody can tell where things were.
  void verify(Image& image, const Medium& pristine, const Damage& damage, bool unsure) {
    testing::Mounted mounted(*image.medium, testing::mount_options(PinPolicy::refuse));
    Filesystem& fs = *mounted.fs;
    for (std::uint64_t n = 1; n <= mounted.volume->inodes().capacity(); ++n) {
      if (mounted.volume->inodes().load(InodeNumber(n))) read_inode(fs, InodeNumber(n));
    }
    const bool journal_hit =
        damage.touches({offset_of(PoolBlock(image.super.journal_start)).value,
                        offset_of(PoolBlock(image.super.pin_region_start)).value});
    for (const auto& [number, known] : image.inodes) {
      if (unsure || damage.touches(known.bytes) || may_lose(image, damage, number)) continue;
      compare(fs, image, damage, number, known, journal_hit);
      ++tally_.intact_inodes;
    }
    if (!unsure) require_pins(image, damage, *mounted.volume);
    use(fs, unsure);
    mounted.fs->unmount();
    if (!unsure) require_limbo(image, pristine, damage);
    const CheckReport after = check_volume(*image.medium, "pool");
    if (!after.ok()) throw Mistake("damaged after use: " + after.errors.front());
  }

  void compare(Filesystem& fs, const Image& image, const Damage& damage, std::uint64_t number,
               const Known& known, bool journal_hit) {
    const InodeNumber inode(number);
    const auto wrong = [&](const std::string& what) {
      return Mistake(fmt::format("inode {} was not damaged, but {}\n{}", number, what, last_));
    };
    const auto st = fs.attributes().get(inode);
    if (!st) throw wrong("is gone");
    if (st->st_mode != known.record.mode || st->st_uid != known.record.uid ||
        st->st_gid != known.record.gid) {
      throw wrong("has other attributes");
    }
    const Known now = read_inode(fs, inode);
    if (now.content != known.content) throw wrong("has other contents");
    if (now.xattrs != known.xattrs) throw wrong("has other extended attributes");
    if (!S_ISDIR(known.record.mode)) {
      if (static_cast<std::uint64_t>(st->st_size) != known.record.size)
        throw wrong("has another size");
      return;
    }
    // Forged records can make other names and directories claim what is here.
    if (damage.hostile() || journal_hit) return;
    for (const auto& [name, child] : known.entries) {
      const auto target = image.inodes.find(child);
      if (damage.touches(target->second.bytes) || may_lose(image, damage, child)) continue;
      const auto found = now.entries.find(name);
      if (found == now.entries.end() || found->second != child) {
        throw wrong(fmt::format("its entry \"{}\" for inode {} is gone", name, child));
      }
    }
  }

  // A chain that was forged says that there are fewer blocks of records, and nothing contradicts
  // it.
  static bool chain_forged(const Image& image, const Damage& damage) {
    return damage.hostile() && std::ranges::any_of(image.pin_slots, [&](PinSlot slot) {
             return index_of(slot) == 0 &&
                    damage.touches(block_bytes(block_of(slot), pmem::kPinSlotBytes));
           });
  }

  static bool lies_in_chain(const Image& image, const KnownPin& pin) {
    return std::ranges::any_of(
        pin.slots, [&](PinSlot slot) { return block_of(slot).value >= image.super.data_start; });
  }

  void require_pins(const Image& image, const Damage& damage, const Volume& volume) {
    const bool forged = chain_forged(image, damage);
    for (const KnownPin& pin : image.pins) {
      if (damage.touches(pin.bytes)) continue;
      if (forged && lies_in_chain(image, pin)) continue;
      const auto found = std::ranges::find(volume.survivors(), pin.slot, &SurvivingPin::slot);
      if (found == volume.survivors().end() || found->blocks != pin.blocks) {
        throw Mistake(fmt::format("the pin record at byte {} was not damaged, but is gone\n{}",
                                  offset_of(pin.slot).value, last_));
      }
      ++tally_.intact_pins;
    }
  }

  // What only pins keep is written to by nobody but their holders.
  void require_limbo(const Image& image, const Medium& pristine, const Damage& damage) {
    const bool forged = chain_forged(image, damage);
    for (const KnownPin& pin : image.pins) {
      if (!pin.limbo || damage.touches(pin.bytes)) continue;
      if (forged && lies_in_chain(image, pin)) continue;
      for (const PoolRange& run : pin.blocks) {
        if (damage.touches(block_bytes(run.start, bytes(run.count).value))) continue;
        if (std::memcmp(image.medium->at(run.start), pristine.at(run.start),
                        bytes(run.count).value) != 0) {
          throw Mistake(
              fmt::format("block {} is pinned, but was written to\n{}", run.start.value, last_));
        }
      }
    }
  }

  // A repaired pool takes changes. `unsure`: it may have no room left.
  static void use(Filesystem& fs, bool unsure) {
    // A forged record can say so, and must be believed.
    if (!fs.inode_flags().set(kRootInode, 0)) throw Mistake("no flags can be taken away");
    const auto made = testing::number_of(
        fs, fs.names().make_node(kRootInode, "after-the-repair", S_IFREG | 0600, 0, {}));
    if (!made && made.error().code == ENOSPC && unsure) return;
    if (!made) throw Mistake("no file can be made");
    auto file = fs.files().open(*made, O_RDWR);
    if (!file || !testing::write(fs, **file, 0, std::string(5000, 'x'))) {
      throw Mistake("no file can be written");
    }
    fs.files().release(std::move(*file));
    if (!fs.names().unlink(kRootInode, "after-the-repair")) throw Mistake("no file can be removed");
  }

  std::vector<Image> images_;
  std::vector<std::unique_ptr<HeapMedium>> pristine_;
  std::vector<testing::ReversibleMedium::Mark> marks_;  // the way back to them
  Tally tally_;
  std::string last_;
};

}  // namespace

TEST_CASE("random damage is repaired, and what is not damaged stays") {
  const std::uint64_t count = number_from("DAXFS_CORRUPTIONS", 3000);
  const std::uint64_t first = number_from("DAXFS_CORRUPTION_SEED", 1);
  spdlog::set_level(spdlog::level::err);  // each mount tells who still has pins
  Campaign campaign;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    try {
      campaign.run(seed);
    } catch (const Mistake& mistake) {
      FAIL(mistake.what());
    }
  }
  const Tally& tally = campaign.tally();
  WARN(
      fmt::format("{} damages: {} harmless, {} repaired ({} without loss), {} refused; {} repairs "
                  "killed on the way; {} intact inodes and {} intact pins compared",
                  count, tally.clean, tally.repaired, tally.without_loss, tally.refused,
                  tally.killed, tally.intact_inodes, tally.intact_pins));
}

TEST_CASE("a truncated pool is refused with a reason, and repaired once it has its size again") {
  Image image = make_small_image();
  std::mt19937_64 random(number_from("DAXFS_CORRUPTION_SEED", 1));
  for (int i = 0; i < 60; ++i) {
    const std::uint64_t size = random() % image.medium->size().value / 512 * 512;
    HeapMedium cut(ByteCount(std::max<std::uint64_t>(size, 1)));
    cut.write(PoolOffset(0), {image.medium->at(PoolOffset(0)), size});
    const auto refused = fsck::check_and_repair(cut, "pool", {});
    REQUIRE_FALSE(refused);
    INFO(refused.error().text);
    REQUIRE_FALSE(refused.error().text.empty());

    HeapMedium restored(image.medium->size());
    restored.write(PoolOffset(0), {image.medium->at(PoolOffset(0)), size});
    const auto repaired = fsck::check_and_repair(restored, "pool", {});
    if (size < sizeof(pmem::Superblock)) {
      REQUIRE_FALSE(repaired);
      continue;
    }
    REQUIRE(repaired);
    INFO(describe(*repaired));
    REQUIRE(repaired->left == 0);
    REQUIRE(check_volume(restored, "pool").ok());
  }
}

}  // namespace daxfs::corruption
