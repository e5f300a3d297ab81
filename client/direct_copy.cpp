#include "client/direct_copy.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace daxfs::client {
namespace {

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

// Whether the address is in one of the mappings, and has memory now.
bool put_memory_at(const Guard& guard, std::uintptr_t at) {
  for (const Mapping& mapping : guard.mappings) {
    const auto start = reinterpret_cast<std::uintptr_t>(mapping.start);
    if (at < start || at - start >= mapping.length) continue;
    const std::size_t from = (at - start) / guard.step * guard.step;
    const std::size_t length = std::min(guard.step, mapping.length - from);
    // Before anything can be read or stored there.
    guard.lost->store(true, std::memory_order_seq_cst);
    return mmap(mapping.start + from, length, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
  return false;
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
  const int saved = errno;
  const Guard* const guard = Guarded::armed();
  const bool ours =
      guard != nullptr && put_memory_at(*guard, reinterpret_cast<std::uintptr_t>(info->si_addr));
  errno = saved;
  if (!ours) hand_on(signal, info, context);
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

}  // namespace

__thread const Guard* Guarded::armed_;

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
    caught = sigaction(SIGBUS, nullptr, &before) == 0;
    struct sigaction ours = {};
    ours.sa_sigaction = on_sigbus;
    ours.sa_mask = before.sa_mask;  // for whom it is handed on to
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | (before.sa_flags & SA_NODEFER);
    caught = caught && sigaction(SIGBUS, &ours, nullptr) == 0;
  }
  pthread_mutex_unlock(&once);
  return caught;
}

void copy_out(void* to, const std::byte* from, std::size_t length) {
  std::memcpy(to, from, length);
}

void copy_in(std::byte* to, const void* from, std::size_t length) {
  stream(to, static_cast<const std::byte*>(from), length);
}

}  // namespace daxfs::client
