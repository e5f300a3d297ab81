#include "src/event_log.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <system_error>
#include <utility>

#include "base/background_thread.h"

namespace daxfs {
namespace {

// How many events are formatted between two looks at the ring.
constexpr std::size_t kAtOnce = 64;

}  // namespace

EventLog::EventLog(Format format, std::size_t capacity)
    : format_(std::move(format)), capacity_(capacity) {}

EventLog::~EventLog() { stop(); }

void EventLog::post(const GateEvent& event) noexcept {
  const auto now = std::chrono::system_clock::now();
  const MutexLock guard(mutex_);
  if (ring_.empty()) return;
  ring_[next_ % capacity_] = {event, now};
  ++next_;
  if (waiting_ == 0 || due_) return;
  due_ = true;
  attention_.notify_one();
}

Result<EventLog::ReaderRef> EventLog::listen(const std::function<std::vector<Event>()>& first,
                                             std::function<void()> has_news) {
  auto reader = std::make_shared<Reader>();
  reader->has_news_ = std::move(has_news);
  {
    const MutexLock guard(mutex_);
    if (!thread_.joinable() && !stopping_) {
      try {
        thread_ = background_thread("daxfs-events", [this] { run(); });
      } catch (const std::system_error& none_left) {
        return fail(none_left.code().value());
      }
    }
    ring_.resize(capacity_);
    reader->next_ = next_;
    readers_.push_back(reader);
    // With the lock, like the last one who leaves and takes the ring away.
    listening_.fetch_add(1, std::memory_order_relaxed);
  }
  const std::vector<Event> told = first();
  const MutexLock guard(reader->mutex_);
  reader->first_.assign(told.begin(), told.end());
  return reader;
}

void EventLog::leave(const ReaderRef& reader) {
  const MutexLock guard(mutex_);
  if (std::erase(readers_, reader) == 0) return;
  if (reader->polled_) --waiting_;
  if (listening_.fetch_sub(1, std::memory_order_relaxed) == 1) ring_ = {};
}

void EventLog::read(const ReaderRef& reader, std::size_t room, bool may_wait, const WaitRef& wait,
                    Done done) {
  answer(reader, {.room = room, .wait = wait, .done = std::move(done)}, may_wait);
}

void EventLog::answer(const ReaderRef& reader, Parked read, bool may_wait) {
  std::string text;
  int error = 0;
  {
    const MutexLock reading(reader->mutex_);
    for (;;) {
      fetch(*reader, read.room);
      if (!reader->text_.empty() || read.room == 0) break;
      const MutexLock guard(mutex_);
      if (reader->next_ != next_) continue;
      if (read.wait->cancelled_) {
        error = EINTR;
      } else if (!stopping_ && !may_wait) {
        error = EAGAIN;
      } else if (!stopping_) {
        if (longest_wait_ && read.until == Clock::time_point::max()) {
          read.until = Clock::now() + *longest_wait_;
          if (read.until < sleeps_until_) attention_.notify_one();
        }
        reader->parked_.push_back(std::move(read));
        ++waiting_;
        return;
      }
      break;
    }
    // Whole lines, if one fits.
    std::string& ready = reader->text_;
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
  reader.mutex_.assert_held();
  while (reader.text_.size() < room) {
    if (!reader.first_.empty()) {
      reader.text_ += format_(reader.first_.front(), 0);
      reader.first_.pop_front();
      continue;
    }
    std::vector<Event> events;
    Sequence lost = 0;
    {
      const MutexLock guard(mutex_);
      if (next_ - reader.next_ > capacity_) {
        lost = next_ - capacity_ - reader.next_;
        reader.next_ += lost;
      }
      while (reader.next_ != next_ && events.size() < kAtOnce) {
        events.push_back(ring_[reader.next_++ % capacity_]);
      }
    }
    if (events.empty()) return;
    for (const Event& event : events) reader.text_ += format_(event, std::exchange(lost, 0));
  }
}

void EventLog::limit_waits(std::chrono::milliseconds longest) {
  const MutexLock guard(mutex_);
  longest_wait_ = longest;
}

void EventLog::cancel(const WaitRef& wait) {
  const MutexLock guard(mutex_);
  wait->cancelled_ = true;
  due_ = true;
  attention_.notify_one();
}

bool EventLog::poll(const ReaderRef& reader) {
  const MutexLock reading(reader->mutex_);
  const MutexLock guard(mutex_);
  if (!reader->text_.empty() || !reader->first_.empty() || reader->next_ != next_ || stopping_) {
    return true;
  }
  if (!reader->polled_) ++waiting_;
  reader->polled_ = true;
  return false;
}

void EventLog::stop() {
  std::call_once(stopped_, [this] {
    {
      const MutexLock guard(mutex_);
      stopping_ = true;
      due_ = true;
      attention_.notify_one();
    }
    if (thread_.joinable()) thread_.join();
  });
}

void EventLog::wait_for_news() {
  while (!due_) {
    sleeps_until_ = Clock::time_point::max();
    for (const ReaderRef& reader : readers_) {
      for (const Parked& read : reader->parked_) {
        sleeps_until_ = std::min(sleeps_until_, read.until);
      }
    }
    if (sleeps_until_ == Clock::time_point::max()) {
      attention_.wait(mutex_);
    } else if (Clock::now() >= sleeps_until_) {
      break;
    } else {
      attention_.wait_until(mutex_, sleeps_until_);
    }
  }
  due_ = false;
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
      const bool all = last || reader->next_ != next_;
      if (reader->polled_ && all) {
        reader->polled_ = false;
        --waiting_;
        polled.push_back(reader);
      }
      // In their order; the later ones of a reader may find that nothing is left for them.
      std::erase_if(reader->parked_, [&](Parked& read) {
        mutex_.assert_held();
        if (read.until <= now) read.wait->cancelled_ = true;
        if (!all && !read.wait->cancelled_) return false;
        reads.emplace_back(reader, std::move(read));
        --waiting_;
        return true;
      });
    }
    {
      const MutexUnlock unlocked(mutex_);
      for (const ReaderRef& reader : polled) reader->has_news_();
      for (auto& [reader, read] : reads) answer(reader, std::move(read), true);
    }
    if (last) return;
  }
}

}  // namespace daxfs
