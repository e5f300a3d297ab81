// Hostile images: a populated pool is damaged as the input says, most of it with good checksums.
// Whatever comes of it, it can be mounted or is refused with a reason, read and changed without a
// crash; a repair leaves nothing, and what it leaves is sound.
//
//   input: image, what to do, how many damages, how many operations, then the choices of each
#include "tests/corruption/image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <random>

#include "base/unique_fd.h"
#include "blockmap/fsck/fsck.h"
#include "blockmap/medium/private_medium.h"
#include "blockmap/volume/check.h"
#include "tests/corruption/damage.h"
#include "tests/corruption/report_text.h"
#include "tests/fuzz/operate.h"
#include "tests/fuzz/target.h"
#include "tests/model/mounted.h"

namespace daxfs::fuzz {
namespace {

using corruption::Damage;
using corruption::describe;
using corruption::Image;

enum Step : std::uint8_t {
  kReadDamaged = 1,  // mounts it read-only and reads it, before any repair
  kUseDamaged = 2,   // mounts it and changes it, before any repair
  kOnlyLook = 4,     // fsck -n
  kSafeFirst = 8,    // fsck -p
};

// Set back to what they were before each input, which costs as much as was changed.
struct Images {
  Images()
      : all{corruption::make_small_image(), corruption::make_wide_image(),
            corruption::make_interrupted_image()} {
    for (std::size_t i = 0; i < all.size(); ++i) marks[i] = all[i].medium->mark();
  }
  std::array<Image, 3> all;
  std::array<testing::ReversibleMedium::Mark, 3> marks{};
};

// The wide one is slow, and little in it is different.
constexpr std::array<std::uint8_t, 8> kWhich = {0, 0, 0, 0, 2, 2, 2, 1};

Image& pristine_image(std::uint64_t choice) {
  static Images images;
  const std::uint8_t which = kWhich.at(choice);
  images.all[which].medium->roll_back(images.marks[which]);
  return images.all[which];
}

class Story {
 public:
  explicit Story(Input input)
      : in_(input),
        image_(pristine_image(in_.below(kWhich.size()))),
        medium_(*image_.medium),
        steps_(in_.byte()),
        damages_(in_.below(8)),
        operations_(in_.below(24)),
        damage_(image_, [this](std::uint64_t limit) { return in_.below(limit); }) {}

  void run() {
    for (; damages_ > 0; --damages_) {
      if (in_.below(8) == 0) {
        damage_.forge_journal();
      } else {
        damage_.inflict();
      }
    }
    if ((steps_ & kReadDamaged) != 0) use_damaged(true);
    if ((steps_ & kUseDamaged) != 0) use_damaged(false);
    if ((steps_ & kOnlyLook) != 0) only_look();
    if ((steps_ & kSafeFirst) != 0) repair(fsck::Severity::repairable);
    const auto report = repair(fsck::Severity::loss);
    if (!report) return;
    check(report->left == 0, "not repaired:\n" + describe(*report));
    const auto again = repair(fsck::Severity::loss);
    check(again && again->findings.empty(), "not clean after the repair:\n" + describe(*report) +
                                                "second run:\n" +
                                                (again ? describe(*again) : again.error().text));
    use_repaired(*report);
  }

 private:
  void check(bool holds, const std::string& what) const {
    require(holds, holds ? std::string() : damage_.text() + "\n" + what);
  }

  Outcome<fsck::Report> repair(fsck::Severity up_to) { return fsck_run(medium_, up_to); }
  Outcome<fsck::Report> fsck_run(Medium& medium, fsck::Severity up_to) const {
    fsck::Options options;
    options.repair_up_to = up_to;
    auto report = fsck::check_and_repair(medium, "pool", options);
    check(report || !report.error().text.empty(), "refused without a reason");
    return report;
  }

  MountOptions options() const {
    return testing::mount_options((steps_ & 16) != 0 ? PinPolicy::defer : PinPolicy::refuse);
  }

  void use_damaged(bool read_only) {
    const std::uint64_t before = medium_.hash();
    MountOptions how = options();
    how.read_only = read_only;
    auto volume = Volume::open(medium_, "pool", read_only, 1);
    check(volume || !volume.error().text.empty(), "refused without a reason");
    if (volume) {
      Filesystem fs({.volume = **volume, .options = how});
      read_everything(fs, Expect::damaged);
      operate(fs, in_, operations_, Expect::damaged);
      fs.unmount();
    }
    check(!read_only || medium_.hash() == before, "changed through a read-only mount");
  }

  // Like fsck.daxfs -n: in private memory, over a file.
  void only_look() {
    static const UniqueFd file(::memfd_create("pool", MFD_CLOEXEC));
    const std::uint64_t size = medium_.size().value;
    require(::pwrite(file.get(), medium_.at(PoolOffset(0)), size, 0) == static_cast<ssize_t>(size),
            "no memory for the copy");
    auto copy = PrivateMedium::map(file.get(), "pool", medium_.size());
    require(copy.has_value(), "no memory for the private copy");
    const auto report = fsck_run(**copy, fsck::Severity::loss);
    check(!report || report->left == 0, "would not be repaired");
  }

  void use_repaired(const fsck::Report& report) {
    auto volume = Volume::open(medium_, "pool", false, 1);
    check(volume.has_value(),
          "does not mount after the repair: " + (volume ? std::string() : volume.error().text));
    Filesystem fs({.volume = **volume, .options = options()});
    read_everything(fs, Expect::sound);
    operate(fs, in_, operations_, Expect::sound);
    read_everything(fs, Expect::sound);
    fs.unmount();
    const CheckReport after = check_volume(medium_, "pool");
    check(after.ok(), "damaged after use: " + (after.ok() ? std::string() : after.errors.front()) +
                          "\n" + describe(report));
  }

  Input in_;
  Image& image_;
  testing::ReversibleMedium& medium_;
  const std::uint8_t steps_;
  std::uint64_t damages_;
  const std::uint64_t operations_;
  Damage damage_;
};

}  // namespace

void make_seeds(const std::function<void(const std::string&, const std::string&)>& add) {
  // Every image, every combination of steps, and numbers for the choices.
  for (const unsigned image : {0u, 4u, 7u}) {
    for (unsigned steps = 0; steps < 32; steps += 5) {
      std::mt19937_64 random(image * 32 + steps);
      std::string bytes{static_cast<char>(image), static_cast<char>(steps),
                        static_cast<char>(random() % 8), static_cast<char>(random() % 24)};
      for (unsigned i = 0; i < 160; ++i) bytes += static_cast<char>(random());
      add(fmt::format("image-{}-steps-{}", image, steps), bytes);
    }
  }
}

}  // namespace daxfs::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  spdlog::set_level(spdlog::level::off);  // each mount tells who still has pins
  daxfs::fuzz::Story(daxfs::fuzz::Input({data, size})).run();
  return 0;
}
