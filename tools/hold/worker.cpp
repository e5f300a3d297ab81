#include "tools/hold/worker.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <numeric>

namespace daxfs::hold {
namespace {

// Between two pauses: enough for a good pace on large ranges, little enough to be no load.
constexpr std::uint64_t kBlocksPerStep = 256;

}  // namespace

Shuffle::Shuffle(std::uint64_t n, std::mt19937_64& random)
    : n_(n), start_(random() % n), stride_(1) {
  if (n < 3) return;
  do {
    stride_ = 1 + random() % (n - 1);
  } while (std::gcd(stride_, n) != 1);
}

Worker::Worker(int file, const PinnedRange& pinned, const ByteRange& range, const Options& options,
               const Pattern& pattern, Engine* engine, Report& report, Totals& totals)
    : file_(file),
      pinned_(pinned),
      range_(range),
      blocks_(pinned.blocks()),
      options_(options),
      pattern_(pattern),
      engine_(engine),
      report_(report),
      totals_(totals),
      random_(std::random_device()()),
      visited_(static_cast<std::size_t>(blocks_.count.value)),
      order_(blocks_.count.value, random_) {}

Worker::Span Worker::span_of(std::uint64_t index) const {
  const FileOffset block = offset_of(blocks_.start + BlockCount(index));
  const FileOffset begin = std::max(block, range_.begin);
  const FileOffset end = std::min(block + ByteCount(kBlockSize), range_.end());
  return {begin, static_cast<std::size_t>((end - begin).value)};
}

Outcome<void> Worker::open_reader() {
  if (!options_.verify) return {};
  reader_ = UniqueFd(open(fmt::format("/proc/self/fd/{}", file_).c_str(), O_RDONLY | O_CLOEXEC));
  if (reader_) return {};
  const int code = errno;
  return problem(code, fmt::format("{}: cannot open it a second time, which --verify needs: {}",
                                   options_.path, std::strerror(code)));
}

Outcome<void> Worker::begin() {
  if (auto opened = open_reader(); !opened) return opened;
  if (options_.verify) detached_.resize(static_cast<std::size_t>(blocks_.count.value));
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
  done_ = 0;
  visited_.assign(visited_.size(), false);
}

Generation Worker::written(std::uint64_t index) const {
  return Generation{generation_.value - (visited_[static_cast<std::size_t>(index)] ? 0 : 1)};
}

Outcome<bool> Worker::step() {
  std::vector<std::uint64_t> indices;
  for (std::uint64_t i = 0; i < kBlocksPerStep && done_ < blocks_.count.value; ++i) {
    if (pinned_.holds(blocks_.start + BlockCount(next_))) indices.push_back(next_);
    next_ = order_.after(next_);
    ++done_;
    if (indices.size() < Engine::kMostPieces && i + 1 < kBlocksPerStep &&
        done_ < blocks_.count.value) {
      continue;
    }
    if (auto visited = visit(indices); !visited) return std::unexpected(visited.error());
    indices.clear();
  }
  if (done_ == blocks_.count.value) {
    swept_ = true;
    start_sweep();
  }
  return swept_;
}

void Worker::leave(FileRange blocks) {
  for (FileBlock at = blocks.start; at < blocks.end(); at += BlockCount(1)) {
    if (!pinned_.holds(at)) continue;
    const std::uint64_t index = (at - blocks_.start).value;
    check_mapping(index, written(index));
  }
}

Outcome<void> Worker::visit(std::span<const std::uint64_t> indices) {
  if (indices.empty()) return {};
  std::vector<std::span<std::byte>> pieces;
  for (const std::uint64_t index : indices) {
    const Span span = span_of(index);
    pieces.push_back(pinned_.bytes(span.at, span.size));
    check_mapping(index, written(index));
  }
  if (engine_ != nullptr) {
    if (auto copied = engine_->copy_out(pieces); !copied) return copied;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      check(indices[i], written(indices[i]), {engine_->there(i), pieces[i].size()},
            "engine's copy");
    }
  }
  if (!options_.read_only) {
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      std::byte* const where = engine_ != nullptr ? engine_->there(i) : pieces[i].data();
      pattern_.fill(span_of(indices[i]).at, {where, pieces[i].size()}, generation_);
    }
    if (engine_ != nullptr) {
      if (auto copied = engine_->copy_in(pieces); !copied) return copied;
    }
  }
  for (const std::uint64_t index : indices) {
    visited_[static_cast<std::size_t>(index)] = true;
    if (reader_) check_file(index, generation_);
  }
  return {};
}

std::optional<Foreign> Worker::compare_with_expected(const Span& span,
                                                     std::span<const std::byte> bytes,
                                                     Generation generation) const {
  if (!options_.read_only) return pattern_.check(span.at, bytes, generation);
  const auto expected = std::span(snapshot_).subspan(
      static_cast<std::size_t>((span.at - range_.begin).value), bytes.size());
  return compare(span.at, expected, bytes, pattern_.holder(), generation);
}

void Worker::check(std::uint64_t index, Generation generation, std::span<const std::byte> bytes,
                   std::string_view seen_in) {
  const Span span = span_of(index);
  ++totals_.checks;
  if (const auto foreign = compare_with_expected(span, bytes, generation)) {
    found(*foreign, seen_in);
    // Each foreign byte is reported when it comes, not again and again.
    if (options_.read_only) {
      std::copy(bytes.begin(), bytes.end(),
                snapshot_.begin() + static_cast<std::ptrdiff_t>((span.at - range_.begin).value));
    }
  }
}

void Worker::check_mapping(std::uint64_t index, Generation generation) {
  const Span span = span_of(index);
  const std::span<std::byte> mapped = pinned_.bytes(span.at, span.size);
  // A copy, so that what is reported is what was compared.
  std::array<std::byte, kBlockSize> seen;
  std::copy(mapped.begin(), mapped.end(), seen.begin());
  check(index, generation, std::span(seen).first(span.size), "mapping");
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
    if (daemon_gone(file_)) return;
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

}  // namespace daxfs::hold
