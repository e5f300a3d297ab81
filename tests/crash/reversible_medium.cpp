#include "tests/crash/reversible_medium.h"

#include <algorithm>
#include <cstring>

namespace daxfs::testing {
namespace {

constexpr std::uint64_t kWord = sizeof(std::uint64_t);

// Zobrist's hashing: the exclusive or of a hash of every word with its place; zero counts nothing,
// so that a new medium need not be read.
std::uint64_t hash_of(std::uint64_t offset, std::uint64_t value) {
  if (value == 0) return 0;
  std::uint64_t x = value ^ (offset * 0x9e3779b97f4a7c15ull);
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  x *= 0xd6e8feb86659fd93ull;
  x ^= x >> 32;
  return x;
}

}  // namespace

ReversibleMedium::ReversibleMedium(ByteCount size)
    : HeapMedium(size), block_hashes_(size.value / kBlockSize) {}

std::uint64_t ReversibleMedium::word(std::uint64_t offset) const {
  std::uint64_t value;
  std::memcpy(&value, base_ + offset, sizeof value);
  return value;
}

// Takes words out of the hash, or into it.
void ReversibleMedium::toggle(std::uint64_t begin, std::uint64_t end) {
  for (std::uint64_t at = begin; at < end; at += kWord) {
    const std::uint64_t hash = hash_of(at, word(at));
    hash_ ^= hash;
    block_hashes_[at / kBlockSize] ^= hash;
  }
}

void ReversibleMedium::save(std::uint64_t begin, std::uint64_t end) {
  for (std::uint64_t at = begin / kLineBytes * kLineBytes; at < end; at += kLineBytes) {
    Line& line = undo_.emplace_back();
    line.offset = at;
    std::memcpy(line.before.data(), base_ + at, kLineBytes);
  }
}

unsigned ReversibleMedium::thread_number() {
  const auto id = std::this_thread::get_id();
  const auto found = std::ranges::find(threads_, id);
  if (found == threads_.end()) threads_.push_back(id);
  return static_cast<unsigned>(std::ranges::find(threads_, id) - threads_.begin());
}

template <class Change>
void ReversibleMedium::change(Event::Kind kind, PoolOffset to, std::uint64_t length,
                              const Change& change) {
  if (length == 0) return;
  const std::lock_guard lock(mutex_);
  const std::uint64_t begin = to.value / kWord * kWord;
  const std::uint64_t end = (to.value + length + kWord - 1) / kWord * kWord;
  save(begin, end);
  toggle(begin, end);
  change();
  toggle(begin, end);
  if (trace_ == nullptr) return;
  Event event{.kind = kind, .thread = thread_number(), .offset = begin, .words = {}};
  event.words.resize((end - begin) / kWord);
  std::memcpy(event.words.data(), base_ + begin, end - begin);
  trace_->push_back(std::move(event));
}

void ReversibleMedium::write(PoolOffset to, std::span<const std::byte> data) {
  change(Event::Kind::nontemporal, to, data.size(), [&] { HeapMedium::write(to, data); });
}

void ReversibleMedium::zero(PoolOffset to, ByteCount length) {
  change(Event::Kind::nontemporal, to, length.value, [&] { HeapMedium::zero(to, length); });
}

void ReversibleMedium::store(PoolOffset to, std::span<const std::byte> data) {
  change(Event::Kind::store, to, data.size(), [&] { HeapMedium::store(to, data); });
}

void ReversibleMedium::fence() {
  const std::lock_guard lock(mutex_);
  if (trace_ != nullptr) {
    trace_->push_back({.kind = Event::Kind::fence, .thread = thread_number(), .words = {}});
  }
}

void ReversibleMedium::copy_from(const Medium& other) {
  std::memcpy(base_, other.at(PoolOffset(0)), size_.value);
  undo_.clear();
  hash_ = 0;
  std::ranges::fill(block_hashes_, 0);
  toggle(0, size_.value);
}

void ReversibleMedium::set_line(std::uint64_t offset, unsigned mask,
                                const std::array<std::uint64_t, 8>& words) {
  save(offset, offset + kLineBytes);
  for (std::size_t i = 0; i < kLineWords; ++i) {
    if ((mask >> i & 1) == 0) continue;
    const std::uint64_t at = offset + i * kWord;
    toggle(at, at + kWord);
    std::memcpy(base_ + at, &words[i], kWord);
    toggle(at, at + kWord);
  }
}

void ReversibleMedium::roll_back(Mark mark) {
  while (undo_.size() > mark) {
    const Line& line = undo_.back();
    toggle(line.offset, line.offset + kLineBytes);
    std::memcpy(base_ + line.offset, line.before.data(), kLineBytes);
    toggle(line.offset, line.offset + kLineBytes);
    undo_.pop_back();
  }
}

}  // namespace daxfs::testing
