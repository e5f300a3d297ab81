#include "tests/crash/cuts.h"

#include <algorithm>
#include <bit>
#include <map>

namespace daxfs::testing {
namespace {

LineCut whole(const PendingLines::Line& line) {
  return {line.offset, static_cast<std::uint32_t>(line.steps.size()), 0};
}

class Cutter {
 public:
  Cutter(const PendingLines& pending, const CutOptions& options, const ObjectOf& object_of,
         std::mt19937_64& random, const std::function<void(const Cut&)>& visit)
      : lines_(pending.lines()),
        options_(options),
        object_of_(object_of),
        random_(random),
        visit_(visit) {}

  void run() {
    visit_({});
    if (lines_.empty()) return;
    if (lines_.size() <= options_.all_subsets) {
      for (std::uint64_t bits = 1; bits + 1 < std::uint64_t{1} << lines_.size(); ++bits) {
        show([&](std::size_t i) { return (bits >> i & 1) != 0; });
      }
    } else {
      by_line();
    }
    by_object();
    by_call();
    single_words();
    show([](std::size_t) { return true; });
  }

 private:
  template <class Arrived>
  void show(const Arrived& arrived) {
    Cut cut;
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      if (arrived(i)) cut.push_back(whole(lines_[i]));
    }
    visit_(cut);
  }

  // All of [0, n) in order, or as many of them as are wanted of a kind, by chance.
  template <class Visit>
  void some_of(std::size_t n, const Visit& visit) {
    if (n <= options_.per_kind) {
      for (std::size_t i = 0; i < n; ++i) visit(i);
    } else {
      for (std::size_t i = 0; i < options_.per_kind; ++i) visit(random_() % n);
    }
  }

  void by_line() {
    const std::size_t n = lines_.size();
    some_of(n, [&](std::size_t k) { show([&](std::size_t i) { return i < k; }); });
    some_of(n, [&](std::size_t k) { show([&](std::size_t i) { return i > k; }); });
    some_of(n, [&](std::size_t k) { show([&](std::size_t i) { return i == k; }); });
    some_of(n, [&](std::size_t k) { show([&](std::size_t i) { return i != k; }); });
    for (std::size_t r = 0; r < options_.per_kind; ++r) {
      const std::uint64_t percent = random_() % 100;
      show([&](std::size_t) { return random_() % 100 < percent; });
    }
  }

  void by_object() {
    std::map<std::uint64_t, std::size_t> numbers;
    std::vector<std::size_t> object(lines_.size());
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      object[i] = numbers.try_emplace(object_of_(lines_[i].offset), numbers.size()).first->second;
    }
    const std::size_t n = numbers.size();
    if (n < 2 || n == lines_.size()) return;  // the same as by line
    some_of(n, [&](std::size_t k) { show([&](std::size_t i) { return object[i] < k; }); });
    some_of(n, [&](std::size_t k) { show([&](std::size_t i) { return object[i] == k; }); });
    some_of(n, [&](std::size_t k) { show([&](std::size_t i) { return object[i] != k; }); });
  }

  // One line cut as said, beside nothing else or beside everything else.
  void alone_and_last(std::size_t which, const LineCut& part) {
    visit_({part});
    Cut cut;
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      cut.push_back(i == which ? part : whole(lines_[i]));
    }
    visit_(cut);
  }

  void by_call() {
    std::vector<std::size_t> repeated;
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      if (lines_[i].steps.size() > 1) repeated.push_back(i);
    }
    some_of(repeated.size(), [&](std::size_t r) {
      const PendingLines::Line& line = lines_[repeated[r]];
      const auto calls = static_cast<std::uint32_t>(line.steps.size());
      const std::uint32_t steps = 1 + static_cast<std::uint32_t>(random_() % (calls - 1));
      alone_and_last(repeated[r], {line.offset, steps, 0});
    });
  }

  // A random part of a line: some calls whole, some words of the next.
  LineCut part_of(const PendingLines::Line& line) {
    LineCut part{line.offset, static_cast<std::uint32_t>(random_() % line.steps.size()), 0};
    const PendingLines::Step& next = line.steps[part.steps];
    part.mask = static_cast<std::uint8_t>(next.mask & random_());
    if (!next.word_atomic) part.torn = static_cast<std::uint8_t>(next.mask & random_());
    return part;
  }

  void single_words() {
    for (std::size_t r = 0; r < options_.torn; ++r) {
      // One word missing, or half of the words of one line, is what reveals most.
      const std::size_t which = random_() % lines_.size();
      const PendingLines::Line& line = lines_[which];
      LineCut part{line.offset, static_cast<std::uint32_t>(line.steps.size() - 1), 0};
      const PendingLines::Step& last = line.steps.back();
      part.mask = static_cast<std::uint8_t>(last.mask);
      const auto words = static_cast<std::uint64_t>(std::popcount(last.mask));
      if (words > 1) {
        unsigned left = last.mask;
        for (std::uint64_t skip = random_() % words; skip > 0; --skip) left &= left - 1;
        part.mask = static_cast<std::uint8_t>(last.mask & ~(left & -left));
      }
      if (!last.word_atomic) {
        part.mask = 0;
        part.torn = static_cast<std::uint8_t>(last.mask);
      }
      alone_and_last(which, part);
      alone_and_last(which, part_of(line));

      const std::uint64_t percent = random_() % 100;
      Cut cut;
      for (const PendingLines::Line& other : lines_) {
        cut.push_back(random_() % 100 < percent ? whole(other) : part_of(other));
      }
      visit_(cut);
    }
  }

  const std::vector<PendingLines::Line>& lines_;
  const CutOptions& options_;
  const ObjectOf& object_of_;
  std::mt19937_64& random_;
  const std::function<void(const Cut&)>& visit_;
};

}  // namespace

void for_each_cut(const PendingLines& pending, const CutOptions& options, const ObjectOf& object_of,
                  std::mt19937_64& random, const std::function<void(const Cut&)>& visit) {
  Cutter(pending, options, object_of, random, visit).run();
}

}  // namespace daxfs::testing
