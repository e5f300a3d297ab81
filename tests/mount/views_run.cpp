#include "tests/mount/views_run.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <stdexcept>

#include "client/daxfs.h"
#include "tests/mount/views_file.h"
#include "tests/mount/views_model.h"
#include "tests/mount/views_pins.h"

namespace daxfs::test {
namespace {

constexpr std::size_t kFiles = 3;
constexpr std::size_t kMostPins = 4;
constexpr std::size_t kRemembered = 100;
constexpr std::uint64_t kSector = 512;

std::string shown(ByteSpan range) {
  return "[" + std::to_string(range.offset) + ", " + std::to_string(range.end()) + ")";
}

// Through which view the other filesystem is asked. What it does with O_DIRECT is not the question,
// and would be most of the time, on a loop device.
View other_view(View view) { return view == View::direct ? View::cached : view; }

// A file in both filesystems, and what it must hold.
struct Twin {
  Twin(const ViewsSetup& setup, std::size_t number)
      : name("views" + std::to_string(number)),
        subject(setup.subject + "/" + name),
        oracle(setup.oracle + "/" + name),
        holder(open(subject.path().c_str(), O_RDWR | O_CLOEXEC)) {}
  ~Twin() {
    pins.clear();
    unlink(subject.path().c_str());
    unlink(oracle.path().c_str());
  }
  std::string name;
  ViewsModel model;
  ViewsFile subject, oracle;
  UniqueFd holder;
  std::vector<std::unique_ptr<ViewsPin>> pins;
  std::deque<std::string> done;  // to it, last

  bool pinned_for_writing() const {
    return std::ranges::any_of(pins, [](const auto& pin) { return pin->write(); });
  }
};

class ViewsRun {
 public:
  explicit ViewsRun(const ViewsSetup& setup) : setup_(setup), random_(setup.seed) {
    for (std::size_t i = 0; i < kFiles; ++i) twins_[i] = std::make_unique<Twin>(setup, i);
  }

  void run() {
    for (step_ = 0; step_ < setup_.operations; ++step_) {
      twin_ = twins_[below(kFiles)].get();
      step();
      if (step_ % 512 == 511) look_at_all();
    }
    for (const auto& twin : twins_) {
      twin_ = twin.get();
      look_at_all();
    }
  }

 private:
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  ViewsModel& model() { return twin_->model; }

  void did(std::string what) {
    std::deque<std::string>& done = twin_->done;
    done.push_back(std::to_string(step_) + ": " + std::move(what));
    if (done.size() > kRemembered) done.pop_front();
  }
  [[noreturn]] void differ(const std::string& what) {
    std::string text;
    for (const std::string& line : twin_->done) text += "  " + line + "\n";
    text += "seed " + std::to_string(setup_.seed) + ", operation " + std::to_string(step_) + ", " +
            twin_->name + ": " + what;
    throw std::runtime_error(text);
  }
  void must(const std::string& difference, const char* where) {
    if (!difference.empty()) differ(std::string(where) + ": " + difference);
  }
  // What both were asked to do must have come to this.
  void came_to(long subject, long oracle, long right) {
    if (subject != right || oracle != right)
      differ("the result is " + std::to_string(subject) + " and " + std::to_string(oracle) +
             ", not " + std::to_string(right));
  }

  // A range, mostly small; `limit`: where it must end.
  ByteSpan range(std::uint64_t limit, std::uint64_t step = 1) {
    if (limit < step) return {};
    const std::uint64_t most = below(4) == 0 ? 8 * kViewsBlock : kViewsBlock;
    std::uint64_t offset = below(limit);
    if (below(4) == 0) offset = offset / kViewsBlock * kViewsBlock;
    std::uint64_t length = 1 + below(most);
    if (below(4) == 0) length = (length + kViewsBlock - 1) / kViewsBlock * kViewsBlock;
    offset = offset / step * step;
    length = std::min((length + step - 1) / step * step, (limit - offset) / step * step);
    return {offset, length};
  }
  std::span<const char> fresh_bytes(std::uint64_t length) {
    const std::uint64_t salt = random_();
    for (std::uint64_t i = 0; i < length; ++i)
      data_[i] = static_cast<char>(1 + (salt + i * 7 + (i >> 8)) % 255);
    return {data_.data(), length};
  }

  void step();
  void look();
  void look_through(View view, ByteSpan part);
  void write();
  void write_through(View view, ByteSpan part, std::span<const char> data);
  void seek();
  void seek_from(std::uint64_t from, bool data);
  void pin();
  void pin_range(ByteSpan part, std::uint32_t flags);
  void unpin();
  void holder_stores();
  void punch();
  void zero_or_allocate();
  void truncate();
  void sync();
  bool detaches(ByteSpan blocks);
  void opened_and_closed();
  bool is_kept(View view) const {
    return view == View::mapped || (setup_.keeps_writes && view == View::cached);
  }
  void look_at_all();

  const ViewsSetup& setup_;
  std::mt19937_64 random_;
  std::array<std::unique_ptr<Twin>, kFiles> twins_;
  Twin* twin_ = nullptr;
  std::uint64_t step_ = 0;
  std::array<char, kViewsMost> data_{}, seen_{};
};

void ViewsRun::look_through(View view, ByteSpan part) {
  const bool older = view == View::cached || view == View::mapped;
  for (ViewsFile* const side : {&twin_->subject, &twin_->oracle}) {
    const bool is_subject = side == &twin_->subject;
    const long got =
        side->read(is_subject ? view : other_view(view), part.offset, {seen_.data(), part.length});
    const std::uint64_t end = std::min(part.end(), model().size());
    const long right = end > part.offset ? static_cast<long>(end - part.offset) : 0;
    if (got != right)
      differ(std::string(is_subject ? "daxfs" : "the other") + ": " + std::to_string(got) +
             " bytes read, not " + std::to_string(right));
    if (got <= 0) continue;
    must(model().difference(part.offset, {seen_.data(), static_cast<std::size_t>(got)},
                            is_subject && older ? &model().stale() : nullptr),
         is_subject ? "daxfs" : "the other");
  }
  if (view == View::direct || (view == View::fresh && twin_->pinned_for_writing()))
    model().flushed(part);
  if (view == View::fresh) opened_and_closed();
}

// A close writes what the kernel has kept of the file.
void ViewsRun::opened_and_closed() {
  if (setup_.keeps_writes) model().flushed({0, kViewsMost});
}

void ViewsRun::look() {
  if (below(4) == 0 && !twin_->pins.empty()) {
    const auto& pin = *twin_->pins[below(twin_->pins.size())];
    did("look at what is pinned " + shown(pin.blocks()));
    return must(pin.difference(model()), "daxfs");
  }
  const auto view = static_cast<View>(below(kViews));
  const std::uint64_t limit = view == View::mapped ? model().size() : kViewsMost;
  const ByteSpan part = range(limit, view == View::direct ? kSector : 1);
  if (part.length == 0) return;
  did(std::string("read, ") + name_of(view) + " " + shown(part));
  look_through(view, part);
}

void ViewsRun::write_through(View view, ByteSpan part, std::span<const char> data) {
  came_to(twin_->subject.write(view, part.offset, data),
          twin_->oracle.write(other_view(view), part.offset, data), static_cast<long>(part.length));
  model().write(part.offset, data);
  if (view != View::mapped && is_kept(view)) {
    model().mark_dirty(part);
  } else if (view == View::direct && setup_.keeps_writes) {
    model().known(part);  // the kernel drops the pages of this part alone
  } else if (view == View::mapped) {
    model().mark_dirty(part);
    // The kernel may have made all blocks of a large folio data (ext4, Linux 6.16).
    std::ranges::replace(model().oracle(), Tag::hole, Tag::loose);
  } else if (view == View::direct || (view == View::fresh && twin_->pinned_for_writing())) {
    model().dropped();  // what goes past the kernel's pages lets none of them stay
  } else {
    model().known(part);
  }
  if (view == View::fresh) opened_and_closed();
}

void ViewsRun::write() {
  const auto view = static_cast<View>(below(kViews));
  ByteSpan part;
  if (view == View::mapped) {
    part = ViewsModel::free_of(model().stale(), range(model().size()));
  } else {
    // Seldom past the end, or all files were as long as can be.
    const std::uint64_t limit =
        below(4) == 0 ? kViewsMost : std::max<std::uint64_t>(model().size(), kSector);
    part = range(limit, view == View::direct ? kSector : 1);
    // A byte that is written with the value that the kernel's page has is not told apart from one
    // that is not written.
    if (setup_.keeps_writes && view != View::direct)
      part = ViewsModel::free_of(model().stale(), part);
  }
  if (part.length == 0) return;
  did(std::string("write, ") + name_of(view) + " " + shown(part));
  write_through(view, part, fresh_bytes(part.length));
}

void ViewsRun::seek_from(std::uint64_t from, bool data) {
  const std::int64_t subject = twin_->subject.seek(from, data);
  model().dropped();
  const std::int64_t oracle = twin_->oracle.seek(from, data);
  must(model().seek_difference(model().subject(), from, data, subject), "daxfs");
  if (setup_.sees_unwritten)
    must(model().seek_difference(model().oracle(), from, data, oracle), "the other");
}

void ViewsRun::seek() {
  const std::uint64_t from = below(model().size() + kViewsBlock);
  const bool data = below(2) == 0;
  did((data ? "SEEK_DATA " : "SEEK_HOLE ") + std::to_string(from));
  seek_from(from, data);
}

void ViewsRun::pin_range(ByteSpan part, std::uint32_t flags) {
  const bool allocate = (flags & DAXFS_PIN_ALLOCATE) != 0;
  std::uint64_t id = 0;
  const int error =
      daxfs_pin(twin_->holder.get(), part.offset, part.length, flags, &id) == 0 ? 0 : errno;
  model().dropped();
  bool hole = false;
  for (std::uint64_t block = part.first_block(); block < part.end_block(); ++block)
    hole = hole || model().subject()[block] == Tag::hole;
  const int right = hole && !allocate ? ENXIO : 0;
  if (error != right)
    differ("the pin's errno is " + std::to_string(error) + ", not " + std::to_string(right));
  if (error != 0) return;
  for (std::uint64_t block = part.first_block(); block < part.end_block(); ++block)
    model().subject()[block] = Tag::data;
  if (allocate && part.end() > model().size()) {
    model().grow(part.end());
    if (const long grown = twin_->oracle.truncate(part.end(), false); grown != 0)
      differ("the other: it cannot be made longer");
  }
  const ByteSpan blocks{part.first_block() * kViewsBlock,
                        (part.end_block() - part.first_block()) * kViewsBlock};
  twin_->pins.push_back(
      std::make_unique<ViewsPin>(twin_->holder.get(), id, blocks, (flags & DAXFS_PIN_WRITE) != 0));
  must(twin_->pins.back()->difference(model()), "daxfs");
}

void ViewsRun::pin() {
  if (twin_->pins.size() == kMostPins) return unpin();
  const std::uint32_t flags =
      (below(3) != 0 ? DAXFS_PIN_WRITE : 0) | (below(2) == 0 ? DAXFS_PIN_ALLOCATE : 0);
  const bool past = (flags & DAXFS_PIN_ALLOCATE) != 0 && below(4) == 0;
  const ByteSpan part = range(past ? kViewsMost : model().size());
  if (part.length == 0) return;
  did("pin " + shown(part) + ((flags & DAXFS_PIN_WRITE) != 0 ? ", write" : "") +
      ((flags & DAXFS_PIN_ALLOCATE) != 0 ? ", allocate" : ""));
  pin_range(part, flags);
}

void ViewsRun::unpin() {
  if (twin_->pins.empty()) return;
  const auto at = twin_->pins.begin() + static_cast<std::ptrdiff_t>(below(twin_->pins.size()));
  did("unpin " + shown((*at)->blocks()));
  must((*at)->difference(model()), "daxfs");
  const bool write = (*at)->write();
  if (const int error = (*at)->unpin(); error != 0) differ("unpin: errno " + std::to_string(error));
  if (write) model().dropped();
  twin_->pins.erase(at);
}

void ViewsRun::holder_stores() {
  if (twin_->pins.empty()) return;
  ViewsPin& pin = *twin_->pins[below(twin_->pins.size())];
  if (!pin.write()) return;
  ByteSpan part = range(pin.blocks().length);
  part.offset += pin.blocks().offset;
  // To one block: others may have left the file.
  const std::uint64_t block = part.first_block();
  part.length = std::min(part.length, (block + 1) * kViewsBlock - part.offset);
  const bool gone = pin.detached(block);
  if (!gone) {
    if (part.offset >= model().size()) return;
    part.length = std::min(part.length, model().size() - part.offset);
    part = ViewsModel::free_of(model().dirty(), part);
  }
  if (part.length == 0) return;
  did(std::string("the holder stores") + (gone ? " what has left the file " : " ") + shown(part));
  const std::span<const char> data = fresh_bytes(part.length);
  pin.store(part.offset, data);
  if (gone) {
    for (const auto& other : twin_->pins) {
      if (other->shares(block, pin)) other->stored(part.offset, data);
    }
    return;
  }
  if (twin_->oracle.write(View::cached, part.offset, data) != static_cast<long>(part.length))
    differ("the other: it cannot be written");
  model().write(part.offset, data);
  model().mark_stale(part);
}

// Whether blocks may be taken away; if so, those that are pinned are their holders' from now on.
bool ViewsRun::detaches(ByteSpan blocks) {
  const auto meets = [&](const auto& pin) { return pin->meets(blocks); };
  if (!setup_.defers && std::ranges::any_of(twin_->pins, meets)) return false;
  for (const auto& pin : twin_->pins) pin->detach(blocks, model(), step_ + 1);
  return true;
}

void ViewsRun::punch() {
  const ByteSpan part = range(kViewsMost);
  did("punch " + shown(part));
  constexpr int kMode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const bool goes = detaches(whole_blocks_of(part));
  const long subject = twin_->subject.fallocate(kMode, part);
  if (!goes) return came_to(subject, -ETXTBSY, -ETXTBSY);
  came_to(subject, twin_->oracle.fallocate(kMode, part), 0);
  model().punch(part);
}

void ViewsRun::zero_or_allocate() {
  const bool zero = below(2) == 0;
  const bool keep = below(2) == 0;
  const ByteSpan part = range(below(4) == 0 || model().size() == 0 ? kViewsMost : model().size());
  did((zero ? "zero " : "allocate ") + shown(part) + (keep ? ", keeping the size" : ""));
  const int mode = (zero ? FALLOC_FL_ZERO_RANGE : 0) | (keep ? FALLOC_FL_KEEP_SIZE : 0);
  long oracle = twin_->oracle.fallocate(mode, part);
  if (oracle == -EOPNOTSUPP && zero) {  // tmpfs
    constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    oracle = twin_->oracle.fallocate(kPunch, part);
    if (oracle == 0) oracle = twin_->oracle.fallocate(mode & ~FALLOC_FL_ZERO_RANGE, part);
  }
  came_to(twin_->subject.fallocate(mode, part), oracle, 0);
  if (zero) {
    model().zero(part, keep);
  } else {
    model().allocate(part, keep);
  }
}

void ViewsRun::truncate() {
  std::uint64_t size = below(2) == 0 ? below(kViewsMost) : below(model().size() + 1);
  if (below(3) == 0) size = size / kViewsBlock * kViewsBlock;
  const bool by_path = below(2) == 0;
  did("truncate to " + std::to_string(size) + (by_path ? ", by path" : ""));
  const std::uint64_t first = ByteSpan{0, size}.end_block() * kViewsBlock;
  const bool goes = size > model().size() || detaches({first, kViewsMost - first});
  const long subject = twin_->subject.truncate(size, by_path);
  if (!goes) return came_to(subject, -ETXTBSY, -ETXTBSY);
  came_to(subject, twin_->oracle.truncate(size, by_path), 0);
  model().truncate(size);
}

void ViewsRun::sync() {
  const bool by_mapping = below(2) == 0;
  did(by_mapping ? "msync" : "fsync");
  if (const long error = twin_->subject.sync(by_mapping); error != 0)
    differ("daxfs: errno " + std::to_string(-error));
  model().flushed({0, kViewsMost});
}

void ViewsRun::look_at_all() {
  did("look at everything");
  struct stat subject {};
  struct stat oracle {};
  if (stat(twin_->subject.path().c_str(), &subject) != 0 ||
      stat(twin_->oracle.path().c_str(), &oracle) != 0)
    differ("stat");
  if (static_cast<std::uint64_t>(subject.st_size) != model().size() ||
      subject.st_size != oracle.st_size)
    differ("the sizes are " + std::to_string(subject.st_size) + " and " +
           std::to_string(oracle.st_size) + ", not " + std::to_string(model().size()));
  for (const auto& pin : twin_->pins) must(pin->difference(model()), "daxfs");
  if (model().size() > 0) {
    const std::uint64_t sectors = (model().size() + kSector - 1) / kSector * kSector;
    for (unsigned view = 0; view < kViews; ++view) {
      const bool direct = static_cast<View>(view) == View::direct;
      look_through(static_cast<View>(view), {0, direct ? sectors : model().size()});
    }
  }
  for (std::uint64_t from = 0; from <= model().size(); from += kViewsBlock) {
    seek_from(from, true);
    seek_from(from, false);
  }
}

void ViewsRun::step() {
  const std::uint64_t what = below(100);
  if (what < 32) return look();
  if (what < 56) return write();
  if (what < 66) return holder_stores();
  if (what < 76) return seek();
  if (what < 81) return pin();
  if (what < 85) return unpin();
  if (what < 89) return punch();
  if (what < 93) return zero_or_allocate();
  if (what < 96) return truncate();
  if (what < 99) return sync();
  if (below(4) != 0) return;
  did("close and open again");
  twin_->subject.reopen();
  twin_->oracle.reopen();
}

}  // namespace

void run_views(const ViewsSetup& setup) { ViewsRun(setup).run(); }

}  // namespace daxfs::test
