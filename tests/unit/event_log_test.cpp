// Events on their way to who listens.
#include "src/event_log.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tests/unit/catch.h"

using namespace daxfs;

namespace {

// "7\n", "8 lost 3\n": the events' inode numbers.
std::string line_of(const EventLog::Event& event, std::uint64_t lost) {
  const std::string number = std::to_string(event.what.inode.value);
  return lost == 0 ? number + "\n" : number + " lost " + std::to_string(lost) + "\n";
}

void post(EventLog& log, std::uint64_t number) { log.post({.inode = InodeNumber{number}}); }

EventLog::ReaderRef listen(EventLog& log) {
  return *log.listen([] { return std::vector<EventLog::Event>(); }, [] {});
}

// The answer of one read, waited for as long as it takes.
class Answer {
 public:
  void read(EventLog& log, const EventLog::ReaderRef& reader, std::size_t room = 4096) {
    log.read(reader, room, true, wait, [this](const Result<std::string_view>& text) {
      const std::lock_guard guard(mutex_);
      answer_ = text ? std::string(*text) : "error " + std::to_string(text.error().code);
      came_.notify_all();
    });
  }
  bool there() const {
    const std::lock_guard guard(mutex_);
    return answer_.has_value();
  }
  std::string get() {
    std::unique_lock lock(mutex_);
    came_.wait(lock, [&] { return answer_.has_value(); });
    std::string text = std::move(*answer_);
    answer_.reset();
    return text;
  }
  EventLog::WaitRef wait = std::make_shared<EventLog::Wait>();

 private:
  mutable std::mutex mutex_;
  std::condition_variable came_;
  std::optional<std::string> answer_;
};

// Without waiting.
std::string now(EventLog& log, const EventLog::ReaderRef& reader, std::size_t room = 4096) {
  std::string out;
  log.read(reader, room, false, std::make_shared<EventLog::Wait>(),
           [&](const Result<std::string_view>& text) {
             out = text ? std::string(*text) : "error " + std::to_string(text.error().code);
           });
  return out;
}

const std::string kNothing = "error " + std::to_string(EAGAIN);

}  // namespace

TEST_CASE("events are wanted only while somebody listens") {
  EventLog log(line_of);
  CHECK_FALSE(log.wanted());
  post(log, 1);
  const auto a = listen(log);
  const auto b = listen(log);
  CHECK(log.wanted());
  post(log, 2);
  CHECK(now(log, a) == "2\n");
  log.leave(a);
  CHECK(log.wanted());
  log.leave(b);
  CHECK_FALSE(log.wanted());
  const auto c = listen(log);
  CHECK(now(log, c) == kNothing);
  post(log, 3);
  CHECK(now(log, c) == "3\n");
}

TEST_CASE("every reader has its own place, and what comes first comes first") {
  EventLog log(line_of);
  const auto a = listen(log);
  post(log, 1);
  const auto b = *log.listen(
      [&] {
        post(log, 2);  // happens while the first are collected
        return std::vector<EventLog::Event>{{.what = {.inode = InodeNumber{90}}, .time = {}},
                                            {.what = {.inode = InodeNumber{91}}, .time = {}}};
      },
      [] {});
  CHECK(log.poll(b));
  post(log, 3);
  CHECK(now(log, a) == "1\n2\n3\n");
  CHECK(now(log, a) == kNothing);
  CHECK(now(log, b) == "90\n91\n2\n3\n");
}

TEST_CASE("a small buffer gets whole lines, or as much as fits") {
  EventLog log(line_of);
  const auto reader = listen(log);
  for (const std::uint64_t number : {11, 22, 3333}) post(log, number);
  CHECK(now(log, reader, 7) == "11\n22\n");
  CHECK(now(log, reader, 3) == "333");
  CHECK(log.poll(reader));
  CHECK(now(log, reader, 3) == "3\n");
  CHECK(now(log, reader, 3) == kNothing);
}

TEST_CASE("a reader that is too slow is told how many it missed") {
  EventLog log(line_of, 8);
  const auto slow = listen(log);
  const auto quick = listen(log);
  for (std::uint64_t number = 1; number <= 8; ++number) post(log, number);
  CHECK(now(log, quick) == "1\n2\n3\n4\n5\n6\n7\n8\n");
  for (std::uint64_t number = 9; number <= 11; ++number) post(log, number);
  CHECK(now(log, quick) == "9\n10\n11\n");
  CHECK(now(log, slow, 9) == "4 lost 3\n");
  CHECK(now(log, slow) == "5\n6\n7\n8\n9\n10\n11\n");
}

TEST_CASE("a read that finds nothing waits") {
  EventLog log(line_of);
  const auto reader = listen(log);
  Answer first;
  Answer second;
  first.read(log, reader);
  second.read(log, reader);
  CHECK_FALSE(first.there());
  post(log, 5);
  CHECK(first.get() == "5\n");
  CHECK_FALSE(second.there());
  post(log, 6);
  CHECK(second.get() == "6\n");
}

TEST_CASE("a read is given up when it is told to, before it waits or while") {
  const std::string interrupted = "error " + std::to_string(EINTR);
  EventLog log(line_of);
  const auto reader = listen(log);
  Answer early;
  log.cancel(early.wait);
  early.read(log, reader);
  CHECK(early.get() == interrupted);
  Answer late;
  Answer other;
  late.read(log, reader);
  other.read(log, reader);
  log.cancel(late.wait);
  CHECK(late.get() == interrupted);
  CHECK_FALSE(other.there());
  // What is there is given, told or not.
  post(log, 1);
  CHECK(other.get() == "1\n");
  post(log, 2);
  Answer both;
  log.cancel(both.wait);
  both.read(log, reader);
  CHECK(both.get() == "2\n");
}

TEST_CASE("a read that has waited for too long is given up") {
  EventLog log(line_of);
  log.limit_waits(std::chrono::milliseconds(50));
  const auto reader = listen(log);
  const auto start = std::chrono::steady_clock::now();
  Answer first;
  first.read(log, reader);
  CHECK(first.get() == "error " + std::to_string(EINTR));
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(50));
  // Who reads again has missed nothing.
  post(log, 1);
  Answer again;
  again.read(log, reader);
  CHECK(again.get() == "1\n");
}

TEST_CASE("who polls is told once") {
  EventLog log(line_of);
  std::atomic<int> told = 0;
  std::mutex mutex;
  std::condition_variable came;
  const auto reader = *log.listen([] { return std::vector<EventLog::Event>(); },
                                  [&] {
                                    const std::lock_guard guard(mutex);
                                    ++told;
                                    came.notify_all();
                                  });
  CHECK_FALSE(log.poll(reader));
  CHECK_FALSE(log.poll(reader));
  post(log, 1);
  {
    std::unique_lock lock(mutex);
    came.wait(lock, [&] { return told > 0; });
  }
  CHECK(log.poll(reader));
  post(log, 2);
  CHECK(now(log, reader) == "1\n2\n");
  log.stop();
  CHECK(told == 1);
}

TEST_CASE("at its end the log answers everybody") {
  EventLog log(line_of);
  const auto reader = listen(log);
  Answer waits;
  waits.read(log, reader);
  log.stop();
  CHECK(waits.get().empty());
  post(log, 1);
  CHECK(now(log, reader) == "1\n");
  CHECK(now(log, reader).empty());
  Answer later;
  later.read(log, reader);
  CHECK(later.get().empty());
  log.leave(reader);
}

TEST_CASE("many post, many read, and everybody hears everything in order") {
  constexpr std::uint64_t kEach = 3000;
  constexpr std::size_t kThreads = 3;
  EventLog log(line_of, 4 * kEach * kThreads);
  std::vector<std::thread> threads;
  std::vector<std::vector<std::string>> heard(kThreads);
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i, reader = listen(log)] {
      std::string text;
      Answer answer;
      while (std::count(text.begin(), text.end(), '\n') <
             static_cast<std::ptrdiff_t>(kEach * kThreads)) {
        answer.read(log, reader, 100 + 1000 * i);
        text += answer.get();
      }
      std::size_t at = 0;
      while (at < text.size()) {
        const std::size_t end = text.find('\n', at);
        heard[i].push_back(text.substr(at, end - at));
        at = end + 1;
      }
      log.leave(reader);
    });
  }
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (std::uint64_t number = 0; number < kEach; ++number) {
        post(log, number * kThreads + i);
        const auto passing = listen(log);
        (void)log.poll(passing);
        log.leave(passing);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(heard[0].size() == kEach * kThreads);
  CHECK(heard[1] == heard[0]);
  CHECK(heard[2] == heard[0]);
  std::vector<std::uint64_t> next(kThreads);
  bool in_order = true;
  for (const std::string& line : heard[0]) {
    const std::uint64_t number = std::stoull(line);
    std::uint64_t& expected = next[number % kThreads];
    in_order = in_order && number / kThreads == expected++;
  }
  CHECK(in_order);
  CHECK_FALSE(log.wanted());
}
