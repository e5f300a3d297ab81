#include "src/event_log.h"

#include <algorithm>
#include <cerrno>
#include <deque>
#include <iterator>
#include <system_error>
#include <utility>

#include "base/background_thread.h"
#include "base/require.h"

namespace daxfs {

struct EventLog::Reader {
  Mutex mutex ABSL_ACQUIRED_BEFORE(EventLog::mutex_);
  std::deque<Event> first GUARDED_BY(mutex);  // to be told before anything else
  std::string text GUARDED_BY(mutex);         // formatted, and not yet read
  // Guarded by the log's mutex.
  Sequence next = 0;
  std::deque<Parked> parked;
  bool polled = false;
  std::function<void()> has_news;
};

namespace {

// How many events are formatted between two looks at the ring.
constexpr std::size_t kAtOnce = 64;

}  // namespace

EventLog::EventLog(Format format, std::size_t capacity)
    : format_(std::move(format)), ring_(capacity) {}

EventLog::~EventLog() { stop(); }

void EventLog::post(const GateEvent& event) noexcept {
  const auto now = std::chrono::system_clock::now();
  const MutexLock guard(mutex_);
  if (ring_.events.empty()) return;
  ring_.at(ring_.next) = {event, now};
  ++ring_.next;
  if (waiting_ == 0 || alarm_.due) return;
  alarm_.due = true;
  alarm_.attention.notify_one();
}

Result<EventLog::ReaderRef> EventLog::listen(const std::function<std::vector<Event>()>& first,
                                             std::function<void()> has_news) {
  auto reader = std::make_shared<Reader>();
  reader->has_news = std::move(has_news);
  {
    const MutexLock guard(mutex_);
    if (!thread_.joinable() && !stopping_) {
      try {
        thread_ = background_thread("daxfs-events", [this] { run(); });
      } catch (const std::system_error& none_left) {
        return fail(none_left.code().value());
      }
    }
    ring_.events.resize(ring_.capacity);
    reader->next = ring_.next;
    readers_.push_back(reader);
    // With the lock, like the last one who leaves and takes the ring away.
    listening_.fetch_add(1, std::memory_order_relaxed);
  }
  const std::vector<Event> told = first();
  const MutexLock guard(reader->mutex);
  reader->first.assign(told.begin(), told.end());
  return reader;
}

void EventLog::leave(const ReaderRef& reader) {
  const MutexLock guard(mutex_);
  if (std::erase(readers_, reader) == 0) return;
  DAXFS_REQUIRE(reader->parked.empty(), "a reader of events leaves, and {} of its reads wait",
                reader->parked.size());
  if (reader->polled) --waiting_;
  if (listening_.fetch_sub(1, std::memory_order_relaxed) == 1) ring_.events = {};
}

void EventLog::read(const ReaderRef& reader, std::size_t room, bool may_wait, const WaitRef& wait,
                    Done done) {
  answer(reader, {.room = room, .wait = wait, .done = std::move(done)}, may_wait);
}

void EventLog::answer(const ReaderRef& reader, Parked read, bool may_wait) {
  std::string text;
  int error = 0;
  {
    const MutexLock reading(reader->mutex);
    for (;;) {
      fetch(*reader, read.room);
      if (!reader->text.empty() || read.room == 0) break;
      const MutexLock guard(mutex_);
      if (reader->next != ring_.next) continue;
      if (read.wait->cancelled) {
        error = EINTR;
      } else if (!stopping_ && !may_wait) {
        error = EAGAIN;
      } else if (!stopping_) {
        if (longest_wait_ && read.until == Clock::time_point::max()) {
          read.until = Clock::now() + *longest_wait_;
          if (read.until < alarm_.sleeps_until) alarm_.attention.notify_one();
        }
        reader->parked.push_back(std::move(read));
        ++waiting_;
        return;
      }
      break;
    }
    // Whole lines, if one fits.
    std::string& ready = reader->text;
    std::size_t length = std::min(read.room, ready.size());
    if (length < ready.size()) {
      const std::size_t end = std::string_view(ready).substr(0, length).rfind('\n');
      if (end != std::string::npos) length = end + 1;
    }
    text = ready.substr(0, length);
    ready.erase(0, length);
  }
  read.done(error != 0 ? Result<std::string_view>(fail(error)) : std::string_view(text));
}

void EventLog::fetch(Reader& reader, std::size_t room) {
  reader.mutex.assert_held();
  while (reader.text.size() < room) {
    if (!reader.first.empty()) {
      reader.text += format_(reader.first.front(), 0);
      reader.first.pop_front();
      continue;
    }
    std::vector<Event> events;
    Sequence lost = 0;
    {
      const MutexLock guard(mutex_);
      if (ring_.next - reader.next > ring_.capacity) {
        lost = ring_.next - ring_.capacity - reader.next;
        reader.next += lost;
      }
      while (reader.next != ring_.next && events.size() < kAtOnce) {
        events.push_back(ring_.at(reader.next++));
      }
    }
    if (events.empty()) return;
    for (const Event& event : events) reader.text += format_(event, std::exchange(lost, 0));
  }
}

void EventLog::limit_waits(std::chrono::milliseconds longest) {
  const MutexLock guard(mutex_);
  longest_wait_ = longest;
}

void EventLog::cancel(const WaitRef& wait) {
  const MutexLock guard(mutex_);
  wait->cancelled = true;
  alarm_.due = true;
  alarm_.attention.notify_one();
}

bool EventLog::poll(const ReaderRef& reader) {
  const MutexLock reading(reader->mutex);
  const MutexLock guard(mutex_);
  if (!reader->text.empty() || !reader->first.empty() || reader->next != ring_.next || stopping_) {
    return true;
  }
  if (!reader->polled) ++waiting_;
  reader->polled = true;
  return false;
}

void EventLog::stop() {
  std::call_once(stopped_, [this] {
    {
      const MutexLock guard(mutex_);
      stopping_ = true;
      alarm_.due = true;
      alarm_.attention.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  });
}

void EventLog::wait_for_news() {
  while (!alarm_.due) {
    alarm_.sleeps_until = Clock::time_point::max();
    for (const ReaderRef& reader : readers_) {
      for (const Parked& read : reader->parked) {
        alarm_.sleeps_until = std::min(alarm_.sleeps_until, read.until);
      }
    }
    if (alarm_.sleeps_until == Clock::time_point::max()) {
      alarm_.attention.wait(mutex_);
    } else if (Clock::now() >= alarm_.sleeps_until) {
      break;
    } else {
      alarm_.attention.wait_until(mutex_, alarm_.sleeps_until);
    }
  }
  alarm_.due = false;
}

void EventLog::run() {
  const MutexLock lock(mutex_);
  for (;;) {
    wait_for_news();
    const bool last = stopping_;
    const Clock::time_point now = Clock::now();
    std::vector<ReaderRef> polled;
    std::vector<std::pair<ReaderRef, Parked>> reads;
    for (const ReaderRef& reader : readers_) {
      const bool all = last || reader->next != ring_.next;
      if (reader->polled && all) {
        reader->polled = false;
        --waiting_;
        polled.push_back(reader);
      }
      // In their order; the later ones of a reader may find that nothing is left for them.
      std::erase_if(reader->parked, [&](Parked& read) {
        mutex_.assert_held();
        if (read.until <= now) read.wait->cancelled = true;
        if (!all && !read.wait->cancelled) return false;
        reads.emplace_back(reader, std::move(read));
        --waiting_;
        return true;
      });
    }
    {
      const MutexUnlock unlocked(mutex_);
      for (const ReaderRef& reader : polled) reader->has_news();
      for (auto& [reader, read] : reads) answer(reader, std::move(read), true);
    }
    if (last) return;
  }
}

}  // namespace daxfs
