// The files of .daxfs/: opened by anybody, read at any offset, written to, while pins, leases and
// detaches come and go.
//
//   input: mount, then steps
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "client/daxfs.h"
#include "src/control_directory.h"
#include "tests/fuzz/policy_words.h"
#include "tests/fuzz/small_pool.h"
#include "tests/fuzz/target.h"

namespace daxfs::fuzz {
namespace {

constexpr unsigned kMostSteps = 60;
constexpr std::array kNames = {"status",  "pins",  "leases",  "limbo",   "policy", "events",
                               "metrics", "scrub", "release", "waiting", "map",    "attached"};

struct Reader {
  ControlFile* file;
  std::string_view name;
  std::uint64_t offset = 0;  // where it reads on
};

class User {
 public:
  User(Filesystem& fs, Input& input) : fs_(fs), in_(input), control_(fs) {
    for (const std::uint64_t inode : {kSparseFile, kSparseFile, kDenseFile, kInnerFile}) {
      auto open = fs_.files().open(InodeNumber(inode), O_RDWR);
      if (!open) open = fs_.files().open(InodeNumber(inode), O_RDONLY);  // a read-only mount
      require(open.has_value(), "a file cannot be opened");
      files_.push_back(std::move(*open));
    }
  }

  void step() {
    using Kind = void (User::*)();
    static constexpr Kind kKinds[] = {&User::open,   &User::open,   &User::read,   &User::read,
                                      &User::read,   &User::whole,  &User::whole,  &User::events,
                                      &User::write,  &User::close,  &User::lookup, &User::list,
                                      &User::change, &User::change, &User::pin,    &User::pin,
                                      &User::unpin,  &User::lease,  &User::punch,  &User::punch};
    (this->*kKinds[in_.below(std::size(kKinds))])();
  }

  // As an unmount does it.
  void end() {
    fs_.stop_waiting();
    require(waiting_ == 0, "a reader of events who was never answered");
    while (!readers_.empty()) close();
    for (auto& file : files_) fs_.files().release(std::move(file));
    fs_.unmount();
  }

 private:
  Caller some_caller() {
    static constexpr uid_t kUsers[] = {0, 0, 0, 1000};
    return {.uid = in_.one_of(kUsers), .gid = 0, .thread = in_.flag() ? ::getpid() : 0};
  }
  OpenFile& some_file() { return *files_[in_.below(files_.size())]; }
  Reader* some_reader() {
    return readers_.empty() ? nullptr : &readers_[in_.below(16) % readers_.size()];
  }
  std::uint64_t some_offset() {
    static constexpr std::uint64_t kOffsets[] = {0, 1, 4096, 15999, 16000, 1ull << 63, UINT64_MAX};
    return in_.flag() ? in_.below(600) : in_.one_of(kOffsets);
  }
  FileOffset some_place() { return FileOffset(in_.below(40) * kBlockSize); }
  ByteCount some_length() { return ByteCount(1 + in_.below(12) * kBlockSize); }

  void open() {
    const std::uint64_t node = in_.below(kNames.size() + 1);
    const InodeNumber inode{ControlDirectory::kDirectory.value + 1 + node};
    const auto file = control_.open(inode, some_caller(), [](HolderId) {});
    if (file) readers_.push_back({*file, kNames.at(node)});
  }
  void close() {
    Reader* const reader = some_reader();
    if (reader == nullptr) return;
    // Precondition of leave(): its reads have been answered.
    if (reader->file->events()) cancel_all();
    control_.close(reader->file);
    *reader = readers_.back();
    readers_.pop_back();
  }

  void read() {
    Reader* const reader = some_reader();
    if (reader == nullptr || reader->file->events() || reader->name == "release") return;
    const std::uint64_t offset = in_.flag() ? reader->offset : some_offset();
    const std::size_t length = in_.below(20'000);
    const auto text = reader->file->read(offset, length);
    require(text.has_value(), "cannot be read");
    require(text->size() <= length, "more than was asked for");
    reader->offset = offset + text->size();
  }

  // From the beginning to the end, in pieces as the input says: it must be what its name says.
  void whole() {
    Reader* const reader = some_reader();
    if (reader == nullptr || reader->file->events() || reader->name == "release") return;
    std::string all;
    const std::size_t piece = 1 + in_.below(9000);
    for (;;) {
      const auto text = reader->file->read(all.size(), piece);
      require(text.has_value(), "cannot be read");
      if (text->empty()) break;
      all += *text;
    }
    if (reader->name == "policy") {
      const auto set = fs_.policies().set(all, Caller{.uid = 0, .gid = 0});
      require(set || !fs_.mount().options.unsafe_demo, "what was read cannot be written: " + all);
    } else if (reader->name == "scrub") {
      // Only ignored pins may do damage here.
      require(all.find("finding") == std::string::npos || fs_.mount().options.unsafe_demo,
              "a scrub has found something: " + all);
    } else if (reader->name != "metrics") {
      require(nlohmann::json::accept(all), fmt::format("{}: no JSON: {}", reader->name, all));
    }
  }

  void events() {
    Reader* const reader = some_reader();
    if (reader == nullptr || !reader->file->events()) return;
    const auto wait = std::make_shared<EventLog::Wait>();
    ++waiting_;
    fs_.events().read(reader->file->events(), in_.below(5000), in_.flag(), wait,
                      [this](const Result<std::string_view>&) { --waiting_; });
    waits_.push_back(wait);
    if (in_.flag()) (void)fs_.events().poll(reader->file->events());
    if (in_.flag()) cancel_all();
  }
  void cancel_all() {
    for (const auto& wait : waits_) fs_.events().cancel(wait);
    waits_.clear();
    // The log's thread answers.
    while (waiting_ != 0) ::sched_yield();
  }

  void write() {
    Reader* const reader = some_reader();
    if (reader == nullptr) return;
    const Status written = reader->file->write(policy_text(in_), some_caller());
    require(!written || reader->name == "policy" || reader->name == "release",
            "written to what cannot be written");
  }
  void lookup() {
    const InodeNumber parent{in_.flag() ? ControlDirectory::kDirectory.value + in_.below(10)
                                        : kRootInode.value};
    const std::string name = in_.flag() ? kNames.at(in_.below(kNames.size())) : in_.text(20);
    if (!ControlDirectory::has(parent, name)) return;
    const auto found = control_.lookup(parent, name);
    require(!found || found->inode == kRootInode || ControlDirectory::contains(found->inode),
            "a name that leads elsewhere");
  }
  void list() {
    const InodeNumber inode{ControlDirectory::kDirectory.value + in_.below(3)};
    std::uint64_t last = in_.flag() ? in_.below(12) : some_offset();
    (void)control_.list(inode, last, [&](const Names::DirectoryEntry& entry) {
      require(entry.cookie > last, "a listing that goes back");
      last = entry.cookie;
      return true;
    });
  }
  void change() {
    AttributeChange change;
    if (in_.flag()) change.size = in_.below(2);
    if (in_.below(4) == 0) change.mode = 0;
    const InodeNumber inode{ControlDirectory::kDirectory.value + in_.below(10)};
    (void)control_.set_attributes(inode, change);
  }

  void pin() {
    const PinRange range{some_place(), some_length(), static_cast<std::uint32_t>(in_.below(16))};
    fs_.pins().pin(some_file(), range, some_caller(), nullptr, [](const Result<PinId>&) {});
  }
  void unpin() {
    fs_.pins().unpin(some_file(), PinId{in_.below(24)}, [](const Status&) {});
  }
  void lease() {
    const LeaseRange range{some_place(), some_length(), static_cast<std::uint32_t>(in_.below(4))};
    fs_.leases().lease(some_file(), range, LeaseId{}, some_caller(), nullptr,
                       [](const Result<LeaseId>&) {});
  }
  void punch() {
    fs_.space().punch_hole(some_file(), some_place(), some_length(), some_caller(), nullptr,
                           [](const Status&) {});
  }

  Filesystem& fs_;
  Input& in_;
  ControlDirectory control_;
  std::vector<OpenFileRef> files_;
  std::vector<Reader> readers_;
  std::vector<EventLog::WaitRef> waits_;
  std::atomic<unsigned> waiting_ = 0;
};

}  // namespace

void make_seeds(const std::function<void(const std::string&, const std::string&)>& add) {
  for (unsigned mount = 0; mount < 10; ++mount) {
    std::mt19937_64 random(mount);
    std::string bytes{static_cast<char>(mount)};
    for (char node = 0; node < 7; ++node) bytes += std::string{0, node, 0, 0};
    for (unsigned i = 0; i < 300; ++i) bytes += static_cast<char>(random());
    add(fmt::format("mount-{}", mount), bytes);
  }
}

}  // namespace daxfs::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace daxfs::fuzz;
  on_small_pool(Input({data, size}), [](daxfs::Filesystem& fs, Input& choices) {
    User user(fs, choices);
    for (unsigned i = 0; i < kMostSteps && !choices.empty(); ++i) user.step();
    user.end();
  });
  return 0;
}
