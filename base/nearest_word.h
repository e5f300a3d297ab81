// Which of the words that there are somebody who mistyped one may have meant.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace daxfs {

// How many letters must be put in, left out, replaced or swapped with their neighbour.
inline std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before_last, last(b.size() + 1), row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before_last[j - 2] + 1);
      }
    }
    before_last = std::exchange(last, row);
  }
  return last[b.size()];
}

// "; did you mean 'WORD'?", or nothing where no word is near.
template <class Words>
std::string did_you_mean(std::string_view mistyped, const Words& words) {
  std::string_view best;
  std::size_t least = std::max<std::size_t>(1, mistyped.size() / 3) + 1;
  for (const auto& word : words) {
    const std::size_t far = distance(mistyped, word);
    if (far < least) {
      least = far;
      best = word;
    }
  }
  return best.empty() ? std::string() : "; did you mean '" + std::string(best) + "'?";
}

}  // namespace daxfs
