// How daxfsctl shows answers to people and to scripts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tools/ctl/query.h"

namespace daxfs::ctl {

// A table whose columns are as wide as their widest cell. Numbers go to the right.
class Table {
 public:
  struct Column {
    std::string_view title;
    bool right = false;
  };
  explicit Table(std::vector<Column> columns);
  void add(std::vector<std::string> cells);
  bool empty() const { return rows_.empty(); }
  std::string text() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::size_t> widths_;
  std::vector<std::vector<std::string>> rows_;
};

// A JSON array that is written while its elements come, so that no list is too long. Closed by its
// destructor.
class JsonArray {
 public:
  JsonArray() = default;
  ~JsonArray();
  JsonArray(const JsonArray&) = delete;
  JsonArray& operator=(const JsonArray&) = delete;
  void add(const Json& element);
  // All elements are there, if any.
  void finish();

 private:
  bool begun_ = false;
  bool finished_ = false;
};

// What is shown for a value that may be missing or of another type than expected: the daemon may be
// newer or older than we are.
std::string text_of(const Json& object, std::string_view key);
std::string size_of(const Json& object, std::string_view key);  // "1.5 GiB"
std::string time_of(const Json& object, std::string_view key);  // local date and time
// The same, as values: 0 and an empty object for what is not there.
std::uint64_t number_of(const Json& object, std::string_view key);
Json part(const Json& object, std::string_view key);
// What is left of a name from the filesystem when it may not do anything to the terminal.
std::string printable(std::string_view text);

void print_json(const Json& object);
void print(std::string_view text);

}  // namespace daxfs::ctl
