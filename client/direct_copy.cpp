#include "client/direct_copy.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace daxfs::client {
namespace {

// Where a copy of this thread can fault for want of storage, and where to go then.
struct Armed {
  std::uintptr_t begin;
  std::uintptr_t end;
  jmp_buf back;
};
__thread Armed* volatile armed;

struct sigaction before;

void hand_on(int signal, siginfo_t* info, void* context) {
  if ((before.sa_flags & SA_SIGINFO) != 0) {
    before.sa_sigaction(signal, info, context);
  } else if (before.sa_handler == SIG_DFL) {
    // Comes again when this returns, and ends the process.
    struct sigaction fall = {};
    fall.sa_handler = SIG_DFL;
    sigaction(SIGBUS, &fall, nullptr);
  } else if (before.sa_handler != SIG_IGN) {
    before.sa_handler(signal);
  }
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  Armed* const here = armed;
  const auto at = reinterpret_cast<std::uintptr_t>(info->si_addr);
  if (here == nullptr || at < here->begin || at >= here->end) return hand_on(signal, info, context);
  armed = nullptr;
  _longjmp(here->back, 1);
}

#if defined(__x86_64__)
// What is smaller than a store past the caches: through them, and out again.
void store_small(std::byte* to, const std::byte* from, std::size_t length) {
  if (length == 0) return;
  std::memcpy(to, from, length);
  _mm_clflush(to);
  _mm_clflush(to + length - 1);
}

void stream(std::byte* to, const std::byte* from, std::size_t length) {
  constexpr std::size_t kUnit = sizeof(__m128i);
  const std::size_t head =
      std::min<std::size_t>((0 - reinterpret_cast<std::uintptr_t>(to)) % kUnit, length);
  store_small(to, from, head);
  to += head;
  from += head;
  length -= head;
  for (; length >= 4 * kUnit; to += 4 * kUnit, from += 4 * kUnit, length -= 4 * kUnit) {
    __m128i some[4];
    std::memcpy(some, from, sizeof some);
    auto* const out = reinterpret_cast<__m128i*>(to);
    for (int i = 0; i < 4; ++i) _mm_stream_si128(out + i, some[i]);
  }
  for (; length >= kUnit; to += kUnit, from += kUnit, length -= kUnit) {
    __m128i one;
    std::memcpy(&one, from, sizeof one);
    _mm_stream_si128(reinterpret_cast<__m128i*>(to), one);
  }
  store_small(to, from, length);
  _mm_sfence();
}
#else
void stream(std::byte*, const std::byte*, std::size_t) {}  // see can_copy_durably()
#endif

template <class Copy>
bool guarded(const std::byte* pool, std::size_t length, const Copy& copy) {
  Armed here;
  here.begin = reinterpret_cast<std::uintptr_t>(pool);
  here.end = here.begin + length;
  Armed* const outer = armed;  // in a signal handler that has interrupted another copy
  if (_setjmp(here.back) != 0) {
    armed = outer;
    return false;
  }
  std::atomic_signal_fence(std::memory_order_seq_cst);
  armed = &here;
  std::atomic_signal_fence(std::memory_order_seq_cst);
  copy();
  std::atomic_signal_fence(std::memory_order_seq_cst);
  armed = outer;
  return true;
}

}  // namespace

bool can_copy_durably() {
#if defined(__x86_64__)
  return true;
#else
  return false;
#endif
}

bool catch_lost_storage() {
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  static bool caught = false;
  pthread_mutex_lock(&once);
  if (!caught) {
    struct sigaction ours = {};
    ours.sa_sigaction = on_sigbus;
    // It leaves by a jump, which does not unblock what a handler has blocked.
    ours.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    caught = sigaction(SIGBUS, &ours, &before) == 0;
  }
  pthread_mutex_unlock(&once);
  return caught;
}

bool copy_out(void* to, const std::byte* from, std::size_t length) {
  return guarded(from, length, [&] { std::memcpy(to, from, length); });
}

bool copy_in(std::byte* to, const void* from, std::size_t length) {
  return guarded(to, length, [&] { stream(to, static_cast<const std::byte*>(from), length); });
}

}  // namespace daxfs::client
