#include "tools/ctl/print.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <utility>

#include "base/size_text.h"

namespace daxfs::ctl {
namespace {

constexpr std::string_view kNothing = "-";

const Json* find(const Json& object, std::string_view key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

void write(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

std::string dump(const Json& object, int indent) {
  return object.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// Columns on the terminal: UTF-8 continuation bytes take none.
std::size_t width_of(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// The bytes of the UTF-8 character that the text begins with; 0: it is none.
std::size_t length_of_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const std::size_t length = first < 0x80   ? 1
                             : first < 0xc2 ? 0
                             : first < 0xe0 ? 2
                             : first < 0xf0 ? 3
                             : first < 0xf5 ? 4
                                            : 0;
  if (length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

// Whether a character tells a terminal to do something else than show it: control characters, of
// which U+0080 to U+009F count for some as escape sequences, and changes of the direction of text.
bool is_command(std::string_view character) {
  if (character.size() == 1) {
    const auto byte = static_cast<unsigned char>(character[0]);
    return byte < 0x20 || byte == 0x7f;
  }
  static constexpr std::array<std::string_view, 11> kDirections{
      "\u200e", "\u200f", "\u202a", "\u202b", "\u202c", "\u202d",
      "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"};
  return (character >= "\u0080" && character <= "\u009f") ||
         std::ranges::find(kDirections, character) != kDirections.end();
}

}  // namespace

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (const Column& column : columns_) widths_.push_back(column.title.size());
}

void Table::add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (std::size_t i = 0; i < cells.size(); ++i)
    widths_[i] = std::max(widths_[i], width_of(cells[i]));
  rows_.push_back(std::move(cells));
}

std::string Table::text() const {
  std::string text;
  const auto line = [&](const auto& cell) {
    std::string row;
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      const std::string_view content = cell(i);
      const std::string padding(widths_[i] - width_of(content), ' ');
      if (i > 0) row += "  ";
      row += columns_[i].right ? padding + std::string(content) : std::string(content) + padding;
    }
    row.erase(row.find_last_not_of(' ') + 1);
    text += row + '\n';
  };
  line([&](std::size_t i) { return columns_[i].title; });
  for (const auto& row : rows_) {
    line([&](std::size_t i) { return std::string_view(row[i]); });
  }
  return text;
}

void JsonArray::add(const Json& element) {
  write(begun_ ? ",\n" : "[\n");
  begun_ = true;
  write("  " + dump(element, -1));
}

void JsonArray::finish() {
  if (!finished_) write(begun_ ? "\n]\n" : "[]\n");
  finished_ = true;
}

JsonArray::~JsonArray() {
  if (begun_) finish();
}

std::string text_of(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  if (value == nullptr) return std::string(kNothing);
  if (value->is_boolean()) return value->get<bool>() ? "yes" : "no";
  return printable(value->is_string() ? value->get<std::string>() : dump(*value, -1));
}

std::string size_of(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  if (value == nullptr || !value->is_number_unsigned()) return text_of(object, key);
  const std::uint64_t size = value->get<std::uint64_t>();
  return size == 0 ? "0 B" : format_size(ByteCount(size));
}

std::string time_of(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  if (value == nullptr || !value->is_number()) return text_of(object, key);
  const double seconds = value->get<double>();
  constexpr double kYear9999 = 253402300799.0;
  if (!std::isfinite(seconds) || seconds < 0 || seconds > kYear9999) return text_of(object, key);
  std::tm local = {};
  const std::time_t time = static_cast<std::time_t>(seconds);
  if (localtime_r(&time, &local) == nullptr) return text_of(object, key);
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", local);
}

std::uint64_t number_of(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  return value != nullptr && value->is_number_unsigned() ? value->get<std::uint64_t>() : 0;
}

Json part(const Json& object, std::string_view key) {
  const Json* value = find(object, key);
  return value != nullptr && value->is_object() ? *value : Json::object();
}

std::string printable(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const std::size_t length = length_of_character(text);
    result += length == 0 || is_command(text.substr(0, length)) ? std::string_view("?")
                                                                : text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return result;
}

void print_json(const Json& object) {
  write(dump(object, 2));
  write("\n");
}

void print(std::string_view text) { write(text); }

}  // namespace daxfs::ctl
