// What is known of each descriptor of the program. Only those that this library has seen opened by
// open() and the like can be attached: of others it might not see the close.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "tools/run/opened.h"

namespace daxfs::run {

// A pointer to an Opened, or one of these, or (from kCounting on) how often it was read or written.
using Word = std::uintptr_t;
inline constexpr Word kUnknown = 0;  // by system call
inline constexpr Word kOwn = 1;      // the library's: the program has no such descriptor
inline constexpr Word kRefused = 2;  // of daxfs, by system call
inline constexpr Word kAttaching = 3;
inline constexpr Word kCounting = 4;
inline constexpr Word kFirstPointer = 8192;
static_assert(kCounting + kMostAfter < kFirstPointer);

inline constexpr int kMostDescriptors = 65536;  // those beyond go by system call
inline std::array<std::atomic<Word>, kMostDescriptors> words;
inline std::atomic<int> highest;  // that is an Opened's, or the library's

inline std::atomic<Word>* word_of(int fd) {
  return fd >= 0 && fd < kMostDescriptors ? &words[static_cast<std::size_t>(fd)] : nullptr;
}
inline bool is_opened(Word word) { return word >= kFirstPointer; }
inline Opened* opened_of(Word word) { return reinterpret_cast<Opened*>(word); }
inline bool is_own(int fd) {
  const std::atomic<Word>* const word = word_of(fd);
  return word != nullptr && word->load(std::memory_order_relaxed) == kOwn;
}
void note_highest(int fd);

// It was opened with these flags.
void note_open(int fd, int flags);
// `copy` is a copy of `fd`, and has been closed if it was something else.
void note_copy(int fd, int copy);
// The program maps the file: what it copies would be in the way of that, and the other way round.
void note_mapped(int fd);
// Is about to be closed, or to be closed by somebody who tells nobody. What has to be reaped
// afterwards, or null.
Opened* forget(int fd);
void end(Opened* opened);  // may be null

// Uses a descriptor's file for one call, if it is attached. A null one says that the call is the
// kernel's.
class Use {
 public:
  Use(int fd, bool write) {
    std::atomic<Word>* const at = word_of(fd);
    if (at == nullptr) return;
    const Word word = at->load(std::memory_order_acquire);
    if (word == kUnknown) return;
    begin(fd, *at, word, write);
  }
  ~Use() {
    if (opened_ != nullptr) finish();
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;
  explicit operator bool() const { return opened_ != nullptr; }
  Opened* operator->() const { return opened_; }
  Opened& operator*() const { return *opened_; }

 private:
  void begin(int fd, std::atomic<Word>& at, Word word, bool write);
  void finish();

  Opened* opened_ = nullptr;
};

}  // namespace daxfs::run
