#include "tools/hold_worker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <numeric>

namespace daxfs::hold {
namespace {

// Between two pauses: enough for a good pace on large ranges, little enough to be no load.
constexpr std::uint64_t kBlocksPerStep = 256;
constexpr std::chrono::seconds kLivenessPeriod(1);

}  // namespace

StopRequest::StopRequest() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signals_ = UniqueFd(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

bool StopRequest::wait(std::chrono::milliseconds at_most) {
  if (stopped_) return true;
  pollfd ready = {signals_.get(), POLLIN, 0};
  // The signal is left unread: it would be taken away from whoever asks next.
  stopped_ = poll(&ready, 1, static_cast<int>(at_most.count())) > 0;
  return stopped_;
}

Shuffle::Shuffle(std::uint64_t n, std::mt19937_64& random)
    : n_(n), start_(random() % n), stride_(1) {
  if (n < 3) return;
  do {
    stride_ = 1 + random() % (n - 1);
  } while (std::gcd(stride_, n) != 1);
}

Worker::Worker(int file, const PinnedRange& pinned, const ByteRange& range, const Options& options,
               const Pattern& pattern, Report& report, Totals& totals)
    : file_(file),
      pinned_(pinned),
      range_(range),
      blocks_(covering(range.begin, range.length)),
      options_(options),
      pattern_(pattern),
      report_(report),
      totals_(totals),
      random_(std::random_device()()),
      order_(blocks_.count.value, random_) {}

Worker::Span Worker::span_of(std::uint64_t index) const {
  const FileOffset block = offset_of(blocks_.start + BlockCount(index));
  const FileOffset begin = std::max(block, range_.begin);
  const FileOffset end = std::min(block + ByteCount(kBlockSize), range_.end());
  return {begin, static_cast<std::size_t>((end - begin).value)};
}

Outcome<void> Worker::begin() {
  if (options_.verify) {
    detached_.resize(static_cast<std::size_t>(blocks_.count.value));
    reader_ = UniqueFd(open(fmt::format("/proc/self/fd/{}", file_).c_str(), O_RDONLY | O_CLOEXEC));
    if (!reader_) {
      const int code = errno;
      return problem(code, fmt::format("{}: cannot open it a second time, which --verify needs: {}",
                                       options_.path, std::strerror(code)));
    }
  }
  if (options_.read_only) snapshot_.resize(static_cast<std::size_t>(range_.length.value));
  for (std::uint64_t i = 0; i < blocks_.count.value; ++i) {
    const Span span = span_of(i);
    const std::span<std::byte> mapped = pinned_.bytes(span.at, span.size);
    if (options_.read_only) {
      std::copy(mapped.begin(), mapped.end(),
                snapshot_.begin() + static_cast<std::ptrdiff_t>((span.at - range_.begin).value));
    } else {
      pattern_.fill(span.at, mapped, generation_);
    }
  }
  start_sweep();
  return {};
}

void Worker::start_sweep() {
  generation_ = generation_.next();
  order_ = Shuffle(blocks_.count.value, random_);
  next_ = order_.at_start();
  visited_ = 0;
}

void Worker::work(const Schedule& schedule, StopRequest& stop) {
  using Clock = Schedule::Clock;
  Clock::time_point next_look = Clock::now() + kLivenessPeriod;
  bool swept = false;
  for (;;) {
    for (std::uint64_t i = 0; i < kBlocksPerStep && visited_ < blocks_.count.value; ++i) {
      visit(next_);
      next_ = order_.after(next_);
      ++visited_;
    }
    if (visited_ == blocks_.count.value) {
      swept = true;
      start_sweep();
    }

    const Clock::time_point now = Clock::now();
    if (now >= next_look) {
      notice_daemon();
      next_look = now + kLivenessPeriod;
    }
    const auto& end = daemon_gone_ ? schedule.overall_end : schedule.round_end;
    if (end && now >= *end) return;
    if (schedule.one_sweep && swept && !daemon_gone_) return;
    auto pause = options_.interval;
    if (end) pause = std::min(pause, std::chrono::ceil<std::chrono::milliseconds>(*end - now));
    if (schedule.one_sweep && !daemon_gone_) pause = std::chrono::milliseconds(0);
    if (stop.wait(pause)) return;
  }
}

void Worker::finish() {
  std::uint64_t index = order_.at_start();
  for (std::uint64_t i = 0; i < blocks_.count.value; ++i) {
    check(index, Generation{i < visited_ ? generation_.value : generation_.value - 1});
    index = order_.after(index);
  }
}

void Worker::visit(std::uint64_t index) {
  check(index, Generation{generation_.value - 1});
  if (!options_.read_only) {
    const Span span = span_of(index);
    pattern_.fill(span.at, pinned_.bytes(span.at, span.size), generation_);
  }
  if (options_.verify && !daemon_gone_) check_file(index, generation_);
}

std::optional<Foreign> Worker::compare_with_expected(const Span& span,
                                                     std::span<const std::byte> bytes,
                                                     Generation generation) const {
  if (!options_.read_only) return pattern_.check(span.at, bytes, generation);
  const auto expected = std::span(snapshot_).subspan(
      static_cast<std::size_t>((span.at - range_.begin).value), bytes.size());
  return compare(span.at, expected, bytes, pattern_.holder(), generation);
}

void Worker::check(std::uint64_t index, Generation generation) {
  const Span span = span_of(index);
  const std::span<std::byte> mapped = pinned_.bytes(span.at, span.size);
  // A copy, so that what is reported is what was compared.
  std::array<std::byte, kBlockSize> seen;
  std::copy(mapped.begin(), mapped.end(), seen.begin());
  const auto bytes = std::span(seen).first(span.size);
  ++totals_.checks;
  if (const auto foreign = compare_with_expected(span, bytes, generation)) {
    found(*foreign, "mapping");
    // Each foreign byte is reported when it comes, not again and again.
    if (options_.read_only) {
      std::copy(bytes.begin(), bytes.end(),
                snapshot_.begin() + static_cast<std::ptrdiff_t>((span.at - range_.begin).value));
    }
  }
}

// The file must show what is mapped, unless a detach was allowed to take the block out of it.
// Whether that is so is asked afterwards: what is attached after the read was attached during it,
// because a detached block never comes back.
void Worker::check_file(std::uint64_t index, Generation generation) {
  if (detached_[static_cast<std::size_t>(index)]) return;
  const Span span = span_of(index);
  std::array<std::byte, kBlockSize> seen;
  const ssize_t got =
      pread(reader_.get(), seen.data(), span.size, static_cast<off_t>(span.at.value));
  if (got < 0 && (errno == ENOTCONN || errno == ECONNABORTED || errno == EIO)) {
    notice_daemon();
    if (daemon_gone_) return;
  }
  std::optional<Foreign> foreign;
  if (got > 0) {
    const auto bytes = std::span(seen).first(static_cast<std::size_t>(got));
    foreign = compare_with_expected({span.at, bytes.size()}, bytes, generation);
  }
  if (got == static_cast<ssize_t>(span.size) && !foreign) return;

  if (!pinned_.attached(blocks_.start + BlockCount(index))) {
    detached_[static_cast<std::size_t>(index)] = true;
    report_.detached(span.at);
    return;
  }
  if (got < 0) {
    foreign = Foreign{.offset = span.at,
                      .attribution = fmt::format("cannot read: {}", std::strerror(errno))};
  }
  // A file that now ends within its last block shows less of it, which is no contradiction.
  if (foreign) found(*foreign, "file");
}

void Worker::found(const Foreign& foreign, std::string_view seen_in) {
  ++totals_.foreign;
  report_.foreign(foreign, pinned_.pool_offset(foreign.offset), seen_in);
}

void Worker::notice_daemon() {
  if (daemon_gone_ || !hold::daemon_gone(file_)) return;
  daemon_gone_ = true;
  report_.daemon_gone();
}

}  // namespace daxfs::hold
