// A medium that records every change and can show what a crash might leave behind.
//
// The model is that of persistent memory: a change reaches the medium in units of aligned 8-byte
// words, in any order and at any time between the call and the end of the same thread's next
// fence(); a word that was changed twice may be found in any of its states, but never again older
// than one that is durable. After a fence, what this thread changed before is durable.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "blockmap/heap_medium.h"

namespace daxfs::testing {

// A medium that can be set back cheaply: it knows which pages were changed.
class CrashImage : public HeapMedium {
 public:
  explicit CrashImage(ByteCount size) : HeapMedium(size) {}

  void write(PoolOffset to, std::span<const std::byte> data) override {
    touch(to, data.size());
    HeapMedium::write(to, data);
  }
  void zero(PoolOffset to, ByteCount length) override {
    touch(to, length.value);
    HeapMedium::zero(to, length);
  }
  void store(PoolOffset to, std::span<const std::byte> data) override {
    touch(to, data.size());
    HeapMedium::store(to, data);
  }

  void restore_from(const Medium& original) {
    for (const std::uint64_t page : touched_) {
      const PoolOffset at(page * kBlockSize);
      const std::uint64_t length = std::min(kBlockSize, size().value - at.value);
      std::memcpy(base_ + at.value, original.at(at), length);
    }
    touched_.clear();
  }

 private:
  void touch(PoolOffset to, std::uint64_t length) {
    if (length == 0) return;
    for (std::uint64_t page = to.value / kBlockSize; page <= (to.value + length - 1) / kBlockSize;
         ++page) {
      touched_.insert(page);
    }
  }
  std::set<std::uint64_t> touched_;
};

// Thread-safe. Sizes must be multiples of 8.
class RecordingMedium : public Medium {
 public:
  explicit RecordingMedium(ByteCount size) : live_(size), start_(size) { adopt(); }
  // Begins with a copy of `image`, all of it durable.
  explicit RecordingMedium(const Medium& image) : RecordingMedium(image.size()) {
    live_.write(PoolOffset(0), {image.at(PoolOffset(0)), image.size().value});
    mark();
  }

  void write(PoolOffset to, std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    live_.write(to, data);
    record(to, data.size());
  }
  void zero(PoolOffset to, ByteCount length) override {
    const std::lock_guard lock(mutex_);
    live_.zero(to, length);
    record(to, length.value);
  }
  void store(PoolOffset to, std::span<const std::byte> data) override {
    const std::lock_guard lock(mutex_);
    live_.store(to, data);
    record(to, data.size());
  }
  void fence() override {
    const std::lock_guard lock(mutex_);
    calls_.push_back({std::this_thread::get_id(), true, {}});
  }

  // Forgets the record: exploration starts from the present state, taken as durable.
  void mark() {
    const std::lock_guard lock(mutex_);
    start_.write(PoolOffset(0), {live_.at(PoolOffset(0)), size_.value});
    calls_.clear();
  }
  // How many calls (changes and fences) were recorded since mark().
  std::size_t calls() const {
    const std::lock_guard lock(mutex_);
    return calls_.size();
  }
  std::size_t fences() const {
    const std::lock_guard lock(mutex_);
    return static_cast<std::size_t>(
        std::ranges::count_if(calls_, [](const Call& call) { return call.is_fence; }));
  }

  struct Options {
    // Every subset of the pending calls is tried where there are at most that many of them, else
    // only every prefix.
    std::size_t subset_limit = 4;
    // Random subsets of the single pending words, tried at every point.
    std::size_t random_words = 8;
    std::uint64_t seed = 1;
    // Visit only every n-th point (a crash just behind a call), for long recordings.
    std::size_t stride = 1;
  };
  // A crash state: the image may be changed (recovered), it is set back for the next one. `done` is
  // how many of the recorded calls had been made; the last state visited has all of them.
  using Visitor = std::function<void(Medium& image, std::size_t done)>;
  // Call it when no other thread uses the medium. Returns the number of states shown.
  std::size_t explore(const Options& options, const Visitor& visit) const;
  std::size_t explore(const Visitor& visit) const { return explore(Options{}, visit); }

 private:
  struct Word {
    std::uint64_t offset;
    std::uint64_t value;
  };
  struct Call {
    std::thread::id thread;
    bool is_fence;
    std::vector<Word> words;  // as they are after the call, in order
  };
  struct Pending {
    std::thread::id thread;
    std::size_t call;
    Word word;
  };
  class Explorer;

  void adopt() {
    base_ = const_cast<std::byte*>(live_.at(PoolOffset(0)));
    size_ = live_.size();
  }
  void record(PoolOffset to, std::uint64_t length) {
    Call call{std::this_thread::get_id(), false, {}};
    for (std::uint64_t at = to.value & ~7ull; at < to.value + length; at += 8) {
      call.words.push_back({at, live_.load<std::uint64_t>(PoolOffset(at))});
    }
    if (!call.words.empty()) calls_.push_back(std::move(call));
  }

  HeapMedium live_;           // what the program sees
  HeapMedium start_;          // what was durable at mark()
  mutable std::mutex mutex_;  // protects calls_ and the order of changes
  std::vector<Call> calls_;
};

class RecordingMedium::Explorer {
 public:
  Explorer(const RecordingMedium& recording, const Options& options, const Visitor& visit)
      : options_(options),
        visit_(visit),
        durable_(recording.size()),
        image_(recording.size()),
        random_(options.seed) {
    const std::span<const std::byte> start{recording.start_.at(PoolOffset(0)),
                                           recording.size().value};
    durable_.write(PoolOffset(0), start);
    image_.write(PoolOffset(0), start);
    image_.restore_from(durable_);
  }

  std::size_t run(const std::vector<Call>& calls) {
    crash(0);
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (calls[i].is_fence) {
        settle(calls[i].thread);
      } else {
        for (const Word& word : calls[i].words) pending_.push_back({calls[i].thread, i, word});
      }
      if ((i + 1) % options_.stride == 0 || i + 1 == calls.size()) crash(i + 1);
    }
    return states_;
  }

 private:
  void set(CrashImage& medium, const Word& word) {
    medium.store_u64(PoolOffset(word.offset), word.value);
  }

  // A fence: what the thread changed is durable, and no older state of those words can come back.
  void settle(std::thread::id thread) {
    std::map<std::uint64_t, std::size_t> newest;  // word -> place in pending_
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      if (pending_[i].thread == thread) newest[pending_[i].word.offset] = i;
    }
    for (const auto& [offset, place] : newest) {
      set(durable_, pending_[place].word);
      set(image_, pending_[place].word);
    }
    std::vector<Pending> rest;
    for (std::size_t i = 0; i < pending_.size(); ++i) {
      const auto settled = newest.find(pending_[i].word.offset);
      if (settled == newest.end() || i > settled->second) rest.push_back(pending_[i]);
    }
    pending_ = std::move(rest);
  }

  void show(std::size_t done, const std::function<bool(const Pending&)>& persisted) {
    for (const Pending& change : pending_) {
      if (persisted(change)) set(image_, change.word);
    }
    ++states_;
    visit_(image_, done);
    image_.restore_from(durable_);
  }

  void crash(std::size_t done) {
    show(done, [](const Pending&) { return false; });
    if (pending_.empty()) return;
    std::set<std::size_t> distinct;
    for (const Pending& change : pending_) distinct.insert(change.call);
    const std::vector<std::size_t> open(distinct.begin(), distinct.end());
    if (open.size() <= options_.subset_limit) {
      for (std::size_t bits = 1; bits < (std::size_t{1} << open.size()); ++bits) {
        std::set<std::size_t> chosen;
        for (std::size_t i = 0; i < open.size(); ++i) {
          if ((bits >> i & 1) != 0) chosen.insert(open[i]);
        }
        show(done, [&](const Pending& change) { return chosen.contains(change.call); });
      }
    } else {
      for (const std::size_t last : open) {
        show(done, [&](const Pending& change) { return change.call <= last; });
      }
    }
    for (std::size_t i = 0; i < options_.random_words; ++i) {
      // From nearly nothing to nearly everything: single missing words matter most.
      std::bernoulli_distribution arrives((static_cast<double>(i) + 0.5) /
                                          static_cast<double>(options_.random_words));
      show(done, [&](const Pending&) { return arrives(random_); });
    }
  }

  const Options options_;
  const Visitor& visit_;
  CrashImage durable_;
  CrashImage image_;
  std::mt19937_64 random_;
  std::vector<Pending> pending_;
  std::size_t states_ = 0;
};

inline std::size_t RecordingMedium::explore(const Options& options, const Visitor& visit) const {
  return Explorer(*this, options, visit).run(calls_);
}

}  // namespace daxfs::testing
