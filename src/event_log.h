// What happens at the gate, for programs that read along (`.daxfs/events`, `daxfsctl events`).
//
//   gate ──post()──► ring of the last events ──► readers, each with a place of its own in it
//
// The ring is all the memory that events take: a reader that is slower than the gate loses the
// oldest, and its next line says how many. A read that finds nothing is parked, and answered from
// the log's own thread. While nobody listens an event costs one look at an atomic.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "lease/gate_event.h"

namespace daxfs {

// Thread-safe.
class EventLog final : public GateEvents {
 public:
  struct Event {
    GateEvent what;
    std::chrono::system_clock::time_point time;
    std::uint64_t pins = 0;  // quarantine: how many the process holds
  };
  // The line for an event, with its end. `lost`: so many before it are gone, the reader was too
  // slow.
  using Format = std::function<std::string(const Event&, std::uint64_t lost)>;

  struct Reader;  // an open description of the events
  using ReaderRef = std::shared_ptr<Reader>;

  // A read that may have to wait. It can be cancelled at any time, also before it waits.
  struct Wait {
    bool cancelled = false;  // protected by the log's mutex
  };
  using WaitRef = std::shared_ptr<Wait>;
  // Some bytes, at most as many as there was room for; none: the log has ended. The text is good
  // only during the call. Errors: EAGAIN, EINTR.
  using Done = std::function<void(Result<std::string_view>)>;

  static constexpr std::size_t kCapacity = 1u << 14;
  explicit EventLog(Format format, std::size_t capacity = kCapacity);
  ~EventLog() override;  // stops
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  bool wanted() const noexcept override { return listening_.load(std::memory_order_relaxed) != 0; }
  void post(const GateEvent& event) noexcept override;

  // A reader that gets every event from now on. The log calls `first` once the reader listens, so
  // that no event falls in between; its events come first. When poll() has found no event, the
  // log's thread calls `has_news` with the next one. EAGAIN: that thread cannot be started.
  Result<ReaderRef> listen(const std::function<std::vector<Event>()>& first,
                           std::function<void()> has_news);
  // Precondition: none of its reads waits.
  void leave(const ReaderRef& reader);

  // Calls `done` once: before it returns, or later from the log's thread.
  void read(const ReaderRef& reader, std::size_t room, bool may_wait, const WaitRef& wait,
            Done done);
  void cancel(const WaitRef& wait);
  // A read that has waited for so long fails with EINTR, as if it had been cancelled: for a kernel
  // that gives up on requests that last. Call before the first read.
  void limit_waits(std::chrono::milliseconds longest);
  // Whether a read would find something.
  bool poll(const ReaderRef& reader);

  // Answers all that wait, and everybody from now on when there is nothing left: the log has ended.
  // Joins the thread. Idempotent.
  void stop();

 private:
  using Sequence = std::uint64_t;
  using Clock = std::chrono::steady_clock;
  struct Parked {
    std::size_t room;
    WaitRef wait;
    Done done;
    Clock::time_point until = Clock::time_point::max();
  };

  void run();
  // Until something is due, or a read has waited for too long.
  void wait_for_news() REQUIRES(mutex_);
  // Answers the read, or parks it.
  void answer(const ReaderRef& reader, Parked read, bool may_wait);
  // Text for the reader until it is at least `room` long, or all has been said. Reader's lock held.
  void fetch(Reader& reader, std::size_t room) EXCLUDES(mutex_);

  // The last events.
  struct Ring {
    explicit Ring(std::size_t size) : capacity(size) {}
    // Precondition: it has not been overwritten yet.
    Event& at(Sequence event) { return events[event % capacity]; }

    const std::size_t capacity;
    std::vector<Event> events;  // empty until somebody listens
    Sequence next = 0;          // of the next event
  };
  // What wakes the log's thread.
  struct Alarm {
    Condition attention;
    Clock::time_point sleeps_until = Clock::time_point::max();
    bool due = false;  // there is something to do
  };

  const Format format_;
  std::atomic<std::size_t> listening_{0};

  Mutex mutex_;  // guards of readers what they say, too; a leaf lock
  Ring ring_ GUARDED_BY(mutex_);
  std::vector<ReaderRef> readers_ GUARDED_BY(mutex_);
  std::optional<std::chrono::milliseconds> longest_wait_ GUARDED_BY(mutex_);
  std::size_t waiting_ GUARDED_BY(mutex_) = 0;  // parked reads, and readers that are polled
  Alarm alarm_ GUARDED_BY(mutex_);
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
  std::once_flag stopped_;
};

}  // namespace daxfs
