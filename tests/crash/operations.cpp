#include "tests/crash/operations.h"

#include <linux/fs.h>

#include <array>
#include <charconv>
#include <stdexcept>

namespace daxfs::testing {
namespace {

// How the operands of a verb are written down.
enum class Shape : std::uint8_t { none, path, path_length, path_range, two_paths };

struct Verb {
  std::string_view name;
  Shape shape;
  Promise promise = Promise::atomic;
};

constexpr std::array kVerbs = {
    Verb{"create", Shape::path},
    Verb{"mkdir", Shape::path},
    Verb{"mkfifo", Shape::path},
    Verb{"symlink", Shape::path},
    Verb{"link", Shape::two_paths},
    Verb{"unlink", Shape::path},
    Verb{"rmdir", Shape::path},
    Verb{"rename", Shape::two_paths},
    Verb{"exchange", Shape::two_paths},
    Verb{"whiteout", Shape::two_paths},   // rename, leaving one
    Verb{"unnamed", Shape::path_length},  // opens one made in this directory, and writes to it
    Verb{"name", Shape::path},            // what was opened last
    Verb{"write", Shape::path_range, Promise::data_first},
    Verb{"truncate", Shape::path_length},
    Verb{"punch", Shape::path_range, Promise::data_first},
    Verb{"allocate", Shape::path_range},
    Verb{"reserve", Shape::path_range},  // allocate, keeping the size
    Verb{"zero", Shape::path_range, Promise::in_steps},
    Verb{"chmod", Shape::path_length},
    Verb{"chown", Shape::path_length},
    Verb{"utimes", Shape::path_length},
    Verb{"setxattr", Shape::path_range},  // attribute number `offset`, `length` bytes
    Verb{"removexattr", Shape::path_length},
    Verb{"acl", Shape::path_length},         // an access control list with this mode
    Verb{"defaultacl", Shape::path_length},  // the same, for what is made in a directory
    Verb{"flags", Shape::path_length},       // pmem::kInode*
    Verb{"open", Shape::path},
    Verb{"close", Shape::none},  // what was opened last
    Verb{"pin", Shape::path_range, Promise::in_steps},
    Verb{"unpin", Shape::none, Promise::in_steps},  // what was pinned first
    Verb{"scatter", Shape::path_length, Promise::in_steps},
};

const Verb& verb_of(std::string_view name) {
  for (const Verb& verb : kVerbs) {
    if (verb.name == name) return verb;
  }
  throw std::runtime_error(fmt::format("\"{}\" is no operation of the explorer", name));
}

std::uint64_t to_number(const std::string& text) {
  std::uint64_t value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || read.ptr != text.data() + text.size()) {
    throw std::runtime_error(fmt::format("\"{}\" is no number", text));
  }
  return value;
}

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> out;
  std::string part;
  for (const char c : text) {
    if (c != at) {
      part += c;
    } else if (!part.empty()) {
      out.push_back(std::exchange(part, {}));
    }
  }
  if (!part.empty()) out.push_back(part);
  return out;
}

Operation parse_operation(const std::string& text) {
  const std::vector<std::string> words = split(text, ' ');
  if (words.empty()) throw std::runtime_error("an operation is missing");
  Operation operation{.verb = words[0], .path = {}, .other = {}};
  const auto need = [&](std::size_t count) {
    if (words.size() != count + 1) {
      throw std::runtime_error(fmt::format("\"{}\" takes {} operands", text, count));
    }
  };
  switch (verb_of(operation.verb).shape) {
    case Shape::none:
      need(0);
      return operation;
    case Shape::path:
      need(1);
      break;
    case Shape::path_length:
      need(2);
      operation.length = to_number(words[2]);
      break;
    case Shape::path_range:
      need(3);
      operation.offset = to_number(words[2]);
      operation.length = to_number(words[3]);
      break;
    case Shape::two_paths:
      need(2);
      operation.other = words[2];
      break;
  }
  operation.path = words[1];
  return operation;
}

// Gives user 7 what the mask leaves.
std::string access_list(std::uint64_t mode) {
  std::string out("\2\0\0\0", 4);
  const auto add = [&out](char tag, std::uint64_t bits, std::string_view id) {
    out += {tag, '\0', static_cast<char>(bits & 7), '\0'};
    out += id;
  };
  constexpr std::string_view kNobody("\xff\xff\xff\xff", 4), kUser("\7\0\0\0", 4);
  add(1, mode >> 6, kNobody);
  add(2, 7, kUser);
  add(4, 5, kNobody);
  add(16, mode >> 3, kNobody);
  add(32, mode, kNobody);
  return out;
}

// Bytes that say which operation wrote them and where: a block too many, or of somebody else,
// shows.
std::string pattern(unsigned number, std::uint64_t offset, std::uint64_t length) {
  std::string out(length, '\0');
  for (std::uint64_t i = 0; i < length; ++i) {
    const std::uint64_t word = (offset + i) / 8;
    out[i] = static_cast<char>('A' + (number * 7 + word * 5 + (word >> 9) * 3) % 57);
  }
  return out;
}

}  // namespace

Promise Operation::promise() const { return verb_of(verb).promise; }

std::string to_string(const Operation& operation) {
  const std::string head = operation.verb + " " + operation.path;
  switch (verb_of(operation.verb).shape) {
    case Shape::none:
      return operation.verb;
    case Shape::path_length:
      return fmt::format("{} {}", head, operation.length);
    case Shape::path_range:
      return fmt::format("{} {} {}", head, operation.offset, operation.length);
    case Shape::two_paths:
      return head + " " + operation.other;
    default:
      return head;
  }
}

std::string to_string(const Sequence& sequence) {
  std::string out;
  for (const Operation& operation : sequence) {
    if (!out.empty()) out += "; ";
    out += to_string(operation);
  }
  return out;
}

Sequence parse_sequence(std::string_view text) {
  Sequence sequence;
  for (const std::string& part : split(text, ';')) sequence.push_back(parse_operation(part));
  return sequence;
}

bool Runner::run(const Operation& operation, unsigned number) {
  try {
    carry_out(operation, number);
    return true;
  } catch (const std::runtime_error&) {
    return false;
  }
}

void Runner::carry_out(const Operation& op, unsigned number) {
  const std::string& path = op.path;
  const auto change = [&](auto member, auto value) {
    AttributeChange what;
    what.*member = value;
    calls_.change(path, what);
  };
  const std::string attribute =
      fmt::format("user.{}", op.verb == "setxattr" ? op.offset : op.length);
  const std::string data =
      op.verb == "write" || op.verb == "setxattr" ? pattern(number, op.offset, op.length) : "";
  if (op.verb == "create") return calls_.create(path);
  if (op.verb == "mkdir") return calls_.mkdir(path);
  if (op.verb == "mkfifo") return calls_.create(path, S_IFIFO | 0600);
  if (op.verb == "symlink") return calls_.symlink("some/where", path);
  if (op.verb == "link") return calls_.link(path, op.other);
  if (op.verb == "unlink") return calls_.unlink(path);
  if (op.verb == "rmdir") return calls_.rmdir(path);
  if (op.verb == "rename") return calls_.rename(path, op.other);
  if (op.verb == "exchange") return calls_.rename(path, op.other, RENAME_EXCHANGE);
  if (op.verb == "whiteout") return calls_.rename(path, op.other, RENAME_WHITEOUT);
  if (op.verb == "unnamed") {
    open_.push_back(calls_.create_unnamed(path));
    return calls_.write(*open_.back(), 0, pattern(number, 0, op.length));
  }
  if (op.verb == "name") {
    if (open_.empty()) throw std::runtime_error("nothing is open");
    return calls_.name(*open_.back(), path);
  }
  if (op.verb == "write") return calls_.write(path, op.offset, data);
  if (op.verb == "truncate") return calls_.truncate(path, op.length);
  if (op.verb == "punch") return calls_.punch(path, op.offset, op.length);
  if (op.verb == "allocate") return calls_.allocate(path, op.offset, op.length, false);
  if (op.verb == "reserve") return calls_.allocate(path, op.offset, op.length, true);
  if (op.verb == "zero") return calls_.zero_range(path, op.offset, op.length);
  if (op.verb == "chmod") return change(&AttributeChange::mode, static_cast<mode_t>(op.length));
  if (op.verb == "chown") return change(&AttributeChange::uid, static_cast<uid_t>(op.length));
  if (op.verb == "utimes") {
    return change(&AttributeChange::mtime_ns, static_cast<std::int64_t>(op.length));
  }
  if (op.verb == "setxattr") return calls_.set_xattr(path, attribute, data);
  if (op.verb == "removexattr") return calls_.remove_xattr(path, attribute);
  if (op.verb == "acl")
    return calls_.set_xattr(path, "system.posix_acl_access", access_list(op.length));
  if (op.verb == "defaultacl")
    return calls_.set_xattr(path, "system.posix_acl_default", access_list(op.length));
  if (op.verb == "flags") return calls_.set_flags(path, static_cast<std::uint16_t>(op.length));
  if (op.verb == "open") return open_.push_back(calls_.open(path));
  if (op.verb == "close") {
    if (open_.empty()) throw std::runtime_error("nothing is open");
    calls_.close(std::move(open_.back()));
    return open_.pop_back();
  }
  if (op.verb == "scatter") {
    for (std::uint64_t i = 0; i < op.length; ++i) calls_.write(path, 2 * i * kBlockSize, "x");
    return;
  }
  if (op.verb == "pin") {
    Held held{calls_.open(path), {}};
    held.pin = calls_.pin(*held.file, op.offset, op.length);
    return pins_.push_back(std::move(held));
  }
  if (pins_.empty()) throw std::runtime_error("nothing is pinned");
  calls_.close(std::move(pins_.front().file));
  pins_.erase(pins_.begin());
}

std::vector<PoolRange> Runner::pinned() {
  std::vector<PoolRange> out;
  for (const Held& held : pins_) {
    const auto pinned = calls_.fs().extents().of_pin(*held.file, held.pin, 0, SIZE_MAX);
    if (!pinned) continue;
    for (const auto& extent : pinned->extents) {
      out.push_back({block_of(extent.pool), blocks_for(extent.length)});
    }
  }
  return out;
}

void prepare_tree(PathCalls& calls) {
  const auto file = [&](const std::string& path, unsigned number, std::uint64_t size) {
    calls.create(path);
    calls.write(path, 0, pattern(number, 0, size));
  };
  file("/a", 50, 3 * kBlockSize + 100);
  file("/b", 51, 9000);
  file("/h", 52, 5 * kBlockSize);
  calls.create("/f");
  for (std::uint64_t i = 0; i < 4; ++i) {
    calls.write("/f", 2 * i * kBlockSize, pattern(53, i, kBlockSize));
  }
  calls.mkdir("/d");
  file("/d/c", 54, 100);
  calls.set_xattr("/d/c", "user.1", "first");
  calls.mkdir("/d/e");
  calls.mkdir("/g");
  calls.symlink("old/target", "/s");
}

const Sequence& vocabulary() {
  static const Sequence kAll = parse_sequence(
      "create /n; create /d/n; mkdir /m; mkdir /d/m; mkfifo /n; symlink /n;"
      "write /a 100 50; write /a 4096 4096; write /a 12388 500; write /a 8000 8000;"
      "write /a 40000 100; write /f 4096 4096; write /f 3000 6000; write /b 0 9000;"
      "write /d/c 0 5000; write /h 20480 9000;"
      "truncate /a 5000; truncate /a 0; truncate /a 30000; truncate /f 8192; truncate /b 4096;"
      "punch /a 4096 4096; punch /a 1000 9000; punch /f 0 28672; punch /h 4096 8192;"
      "allocate /a 20000 20000; reserve /b 8192 16384; allocate /f 4096 12288;"
      "zero /a 1000 8000; zero /b 4096 12288;"
      "link /a /n; link /b /d/n;"
      "unlink /a; unlink /b; unlink /h; unlink /s; unlink /d/c; unlink /f;"
      "rename /a /n; rename /a /b; rename /a /d/n; rename /d /n; rename /g /d/e; rename /b /d/c;"
      "exchange /a /b; exchange /a /d; exchange /g /d/c;"
      "whiteout /a /n; whiteout /a /b; whiteout /d /n; whiteout /b /d/c; whiteout /g /d/e;"
      "unnamed /d 5000; name /n; name /d/n;"
      "rmdir /g; rmdir /d/e; chmod /a 493; chown /b 7; utimes /a 12345;"
      "acl /a 416; acl /d/c 493; defaultacl /d 509; flags /a 1; flags /d 2;"
      "setxattr /a 2 50; setxattr /d/c 1 5000; setxattr /d/c 2 100; removexattr /d/c 1;"
      "open /h; close; pin /a 0 8192; pin /h 0 20480; pin /f 0 8192; unpin");
  return kAll;
}

}  // namespace daxfs::testing
